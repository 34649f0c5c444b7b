"""Do related facts have similar vectors? Measured on the vectors alone, without running a federation."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fleke_lib.federation.retrieval.representations import cosines


@dataclass(frozen=True, eq=False)
class Separation:
    """Cosines of all pairs of vectors.

    within, between: of the pairs with the same label, and with different labels.
    auc: the probability that a pair with the same label has a greater cosine than a pair with different labels; 0.5 is
        no separation.
    nearest: share of vectors whose nearest neighbour has the same label.
    """

    within: Float[Tensor, " pairs"] = field(repr=False)
    between: Float[Tensor, " pairs"] = field(repr=False)
    auc: float
    nearest: float

    def over(self, tau: float) -> tuple[float, float]:
        """Shares of pairs with a cosine over tau, among those with the same label and with different labels."""
        return float((self.within > tau).float().mean()), float((self.between > tau).float().mean())


def separation(vectors: Float[Tensor, "facts d"], labels: Sequence[str]) -> Separation:
    """How well the cosines of `vectors` separate pairs with the same label from pairs with different labels."""
    cosine = cosines(vectors, vectors)
    codes = torch.tensor([sorted(set(labels)).index(label) for label in labels])
    same, pairs = codes[:, None] == codes, torch.triu(torch.ones_like(cosine, dtype=torch.bool), 1)
    within, between = cosine[same & pairs], cosine[~same & pairs]
    truth = torch.cat([torch.ones_like(within), torch.zeros_like(between)])
    auc = roc_auc_score(truth.numpy(), torch.cat([within, between]).numpy())
    nearest = cosine.fill_diagonal_(-2).argmax(1)
    return Separation(within, between, float(auc), float((codes[nearest] == codes).float().mean()))
