"""The two sums that an edit is solved from.

Each fact i asks a layer to answer its keys with its share r_i, and the keys q of its bystanders, the other words of its
prompt, with nothing. With weights w_c over contexts (half for the bare prompt, half for the prefixed ones) and beta for
a bystander

    S = sum_i (sum_c w_c k_i^c (k_i^c)^T + beta sum_t q_i^t (q_i^t)^T),    T = sum_i r_i (sum_c w_c k_i^c)^T

    dW = T (lam C + S)^-1

is the ridge regression over all contexts and all bystanders of all facts. S and T are sums over facts: clients' sums
add, the order of arrival does not matter, and withdrawing a fact is subtracting its part and solving again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.ridge.solve import LowRank, spd_solve

TOGETHER = 256  # facts whose keys are held in float64 at once


class Contribution(Protocol):
    """What the sums need of a fact: a `Trajectory`, or the packet that it was sent in."""

    shares: dict[int, Float[Tensor, " d_model"]]
    fingerprint: str

    def rows(self, layer: int) -> Float[Tensor, "rows d_mlp"]: ...

    def mean(self, layer: int) -> Float[Tensor, " d_mlp"]: ...


@dataclass(frozen=True, eq=False)
class Sums:
    """One layer's S and T, in float64. `a + b` joins two sets of facts, `a - b` takes some out again."""

    S: Float[Tensor, "d_mlp d_mlp"]
    T: Float[Tensor, "d_model d_mlp"]

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.S + other.S, self.T + other.T)

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.S - other.S, self.T - other.T)

    def solve(self, moment: Float[Tensor, "d_mlp d_mlp"], lam: float) -> Float[Tensor, "d_model d_mlp"]:
        """dW = T (lam C + S)^-1."""
        return spd_solve(lam * moment.double() + self.S, self.T.T).T


def sums(paths: Sequence[Contribution], layer: int, device: torch.device | None = None) -> Sums:
    """S and T of a layer over facts, added up in their order.

    Args:
        device: where they are added up; by default where the vectors are.

    Raises:
        ValueError: there is no fact.
    """
    if not paths:
        raise ValueError("there is no path to add up: give one or more, and leave a client without facts out.")
    total = None
    for start in range(0, len(paths), TOGETHER):
        part = paths[start : start + TOGETHER]
        rows = torch.cat([path.rows(layer).to(device=device).double() for path in part])
        here = Sums(rows.T @ rows, _shares(part, layer, device) @ _means(part, layer, device))
        total = here if total is None else total + here
    return total


def factors(
    paths: Sequence[Contribution],
    layer: int,
    moment: Float[Tensor, "d_mlp d_mlp"],
    lam: float,
    device: torch.device | None = None,
) -> LowRank:
    """The same dW as two factors of rank n, for n facts: the shares, and the mean keys times `(lam C + S)^-1`."""
    system = lam * moment.double() + sums(paths, layer, device).S
    solved = spd_solve(system, _means(paths, layer, device).T).T.contiguous()
    return LowRank(_shares(paths, layer, device), solved)


def _shares(paths: Sequence[Contribution], layer: int, device: torch.device | None) -> Float[Tensor, "d_model facts"]:
    return torch.stack([path.shares[layer].to(device=device).double() for path in paths], 1)


def _means(paths: Sequence[Contribution], layer: int, device: torch.device | None) -> Float[Tensor, "facts d_mlp"]:
    return torch.stack([path.mean(layer).to(device=device).double() for path in paths])
