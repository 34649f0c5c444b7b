"""The two sums S and T that an edit is solved from.

At each layer, fact i contributes its keys k_i^c in contexts c, which a weight change should map to its share r_i, and
its *bystanders* q_i^t: the keys of the other tokens t of its prompt, which should map to zero. The literature calls
such keys preservation keys. Of the weights w_c, half goes to the bare prompt and half to the prefixed ones; beta is the
weight of a bystander.

    S = sum_i (sum_c w_c k_i^c (k_i^c)^T + beta sum_t q_i^t (q_i^t)^T),    T = sum_i r_i (sum_c w_c k_i^c)^T

    dW = T (lam C + S)^-1

dW is the ridge regression over all contexts and all bystanders of all facts. S and T are sums over facts. Therefore the
sums of several clients add up, the order of arrival does not matter, and a fact is withdrawn by subtracting its part
and solving again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.ridge.solve import LowRank, spd_solve

TOGETHER = 256  # facts whose keys are in memory in float64 at the same time


class Contribution(Protocol):
    """One fact's contribution to S and T: a `Trajectory`, or the `Packet` that it was published in.

    shares: r of each layer. fingerprint: of the model that everything was computed on.
    """

    @property
    def shares(self) -> Mapping[int, Float[Tensor, " d_model"]]: ...

    @property
    def fingerprint(self) -> str: ...

    def rows(self, layer: int) -> Float[Tensor, "rows d_mlp"]:
        """The weighted keys, `sqrt(w_c) k^c` and `sqrt(beta) q^t`; `rows^T rows` is the contribution to S."""
        ...

    def mean(self, layer: int) -> Float[Tensor, " d_mlp"]:
        """The mean key, `sum_c w_c k^c`; `r mean^T` is the contribution to T."""
        ...


@dataclass(frozen=True, eq=False)
class Sums:
    """One layer's S and T, in float64. `a + b` adds the facts of `b` to those of `a`; `a - b` removes them again."""

    S: Float[Tensor, "d_mlp d_mlp"]
    T: Float[Tensor, "d_model d_mlp"]

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.S + other.S, self.T + other.T)

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.S - other.S, self.T - other.T)

    def solve(self, moment: Float[Tensor, "d_mlp d_mlp"], lam: float) -> Float[Tensor, "d_model d_mlp"]:
        """dW = T (lam C + S)^-1."""
        return spd_solve(lam * moment.double() + self.S, self.T.T).T


def sums(contributions: Sequence[Contribution], layer: int, device: torch.device | str | None = None) -> Sums:
    """S and T of one layer, added up in the given order.

    Args:
        device: where they are added up; by default where the vectors are.

    Raises:
        ValueError: there are no contributions.
    """
    if not contributions:
        raise ValueError(
            "there are no contributions to add up: give at least one, and leave out clients without facts."
        )
    total = None
    for start in range(0, len(contributions), TOGETHER):
        part = contributions[start : start + TOGETHER]
        rows = torch.cat([contribution.rows(layer).to(device=device).double() for contribution in part])
        here = Sums(rows.T @ rows, _shares(part, layer, device) @ _means(part, layer, device))
        total = here if total is None else total + here
    return total


def factors(
    contributions: Sequence[Contribution],
    layer: int,
    moment: Float[Tensor, "d_mlp d_mlp"],
    lam: float,
    device: torch.device | str | None = None,
) -> LowRank:
    """The same dW as factors of rank n, for n facts: the shares, and the mean keys times `(lam C + S)^-1`.

    Raises:
        ValueError: there are no contributions, or `lam C + S` is singular.
    """
    system = lam * moment.double() + sums(contributions, layer, device).S
    solved = spd_solve(system, _means(contributions, layer, device).T).T.contiguous()
    return LowRank(_shares(contributions, layer, device), solved)


def _shares(
    contributions: Sequence[Contribution], layer: int, device: torch.device | str | None
) -> Float[Tensor, "d_model facts"]:
    return torch.stack([fact.shares[layer].to(device=device).double() for fact in contributions], 1)


def _means(
    contributions: Sequence[Contribution], layer: int, device: torch.device | str | None
) -> Float[Tensor, "facts d_mlp"]:
    return torch.stack([fact.mean(layer).to(device=device).double() for fact in contributions])
