"""The rate of an attack: in how many victims it names the truth, with an interval and the rate of a blind guess."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float, Int
from scipy.stats import norm
from torch import Tensor


@dataclass(frozen=True)
class Rate:
    """The share of n victims in which an attack succeeds.

    hits, n: successes and victims. chance: the share that a guess without the vectors would have.
    """

    hits: int
    n: int
    chance: float

    def __post_init__(self) -> None:
        """Raises ValueError unless there are victims, hits are among them and chance is a probability."""
        if not 0 <= self.hits <= self.n or not self.n:
            raise ValueError(f"{self.hits} hits of {self.n} victims are no rate: give 1 or more victims, hits of them.")
        if not 0 <= self.chance <= 1:
            raise ValueError(f"chance is {self.chance}: give a probability from 0 to 1.")

    @property
    def share(self) -> float:
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval, which also holds for rates near 0 and 1.

        Source: Wilson 1927, doi 10.1080/01621459.1927.10502953.
        """
        z = float(norm.ppf(0.975))
        centre = (self.share + z**2 / (2 * self.n)) / (1 + z**2 / self.n)
        half = z / (1 + z**2 / self.n) * sqrt(self.share * (1 - self.share) / self.n + z**2 / (4 * self.n**2))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __repr__(self) -> str:
        low, high = self.interval
        return f"{self.share:.3f} [{low:.3f}, {high:.3f}] (n {self.n}, chance {self.chance:.2g})"


def ranks(scores: Float[Tensor, "victims candidates"], truth: Int[Tensor, " victims"]) -> Int[Tensor, " victims"]:
    """The place of the true candidate by descending score, from 1. Ties count against the attacker, as does nan."""
    true = scores.gather(1, truth[:, None])
    before = ~(scores < true)  # the true one is among them
    return before.sum(1)


def rate(ranks: Sequence[int] | Int[Tensor, " victims"], candidates: int, within: int = 1) -> Rate:
    """The rate of ranks up to `within`; the chance is that of a random order of the candidates."""
    places = torch.as_tensor(ranks)
    return Rate(int((places <= within).sum()), len(places), min(1.0, within / candidates))


def commonest(labels: Sequence[Hashable]) -> float:
    """The share of the most frequent label: the rate of a guess that always names this one."""
    return max(Counter(labels).values()) / len(labels)
