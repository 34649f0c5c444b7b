"""Precision and recall of retrieval: what a client adopted, compared with what was relevant to it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor


@dataclass(frozen=True)
class Retrieval:
    """What a client adopted, compared with what was relevant to it.

        precision = both / adopted      recall = both / relevant      f1 = 2 both / (adopted + relevant)

    Precision is 1 if nothing was adopted, recall is 1 if nothing was relevant, and f1 is 1 if both are the case. With
    this convention f1 is always the harmonic mean of the two, and 0 if every relevant packet was missed.

    adopted, relevant, both, offered: numbers of packets.
    """

    adopted: int
    relevant: int
    both: int
    offered: int

    @property
    def precision(self) -> float:
        return self.both / self.adopted if self.adopted else 1.0

    @property
    def recall(self) -> float:
        return self.both / self.relevant if self.relevant else 1.0

    @property
    def f1(self) -> float:
        total = self.adopted + self.relevant
        return 2 * self.both / total if total else 1.0

    def __repr__(self) -> str:
        return (
            f"Retrieval(adopted {self.adopted} of {self.offered}, {self.both} of the {self.relevant} relevant: "
            f"precision {self.precision:.2f}, recall {self.recall:.2f}, f1 {self.f1:.2f})"
        )


def precision_recall(adopted: Bool[Tensor, " m"], relevant: Bool[Tensor, " m"]) -> Retrieval:
    """Compare what was adopted with what was relevant. Raises ValueError unless both are bool and of equal length."""
    if adopted.shape != relevant.shape or not adopted.dtype == relevant.dtype == torch.bool:
        given = f"{adopted.dtype} {tuple(adopted.shape)} and {relevant.dtype} {tuple(relevant.shape)}"
        raise ValueError(f"adopted and relevant are {given}: give two bool tensors with one entry a vector.")
    both = adopted & relevant
    return Retrieval(int(adopted.sum()), int(relevant.sum()), int(both.sum()), len(adopted))
