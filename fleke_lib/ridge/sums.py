"""The two sums S and T that a layer of the closed-form edit is solved from.

Fact i has keys k_i^c in contexts c, which a weight change should map to its share r_i, and *bystanders* q_i^t: the keys
of the other tokens t of its prompt, which should map to zero. The literature calls such keys preservation keys. Of the
weights w_c, half goes to the bare prompt and half to the prefixed ones; beta is the weight of a bystander. With the
mean key k_i = sum_c w_c k_i^c, the contexts' deviations from it and the bystanders form the fact's *spread* D_i:

    S = sum_i (k_i k_i^T + D_i),     D_i = sum_c w_c (k_i^c - k_i) (k_i^c - k_i)^T + beta sum_t q_i^t (q_i^t)^T
    T = sum_i r_i k_i^T

    dW = T (lam C + S)^-1

dW is the ridge regression over all contexts and all bystanders of all facts. S and T are sums over facts. Therefore the
sums of several clients add up, the order of arrival does not matter, and a fact is withdrawn by subtracting its part
and solving again.

A packet carries only a part of D_i as vectors, and the trace of the rest, tau_i. The rest counts in the shape of C, as
tau_i C / tr C, so that lambda becomes `lam + sum_i tau_i / tr C`: another sum over facts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.ridge.solve import spd_solve

TOGETHER = 256  # facts whose keys are in memory in float64 at the same time


class Contribution(Protocol):
    """What one fact contributes to an edit: a `Trajectory`, or the `Packet` that it was published in.

    shares: r of each layer. residual: z - h, the change of state that all layers together should bring.
    bases: the mean key on the base model, of each layer; empty where it is unknown.
    left: tau of each layer.
    fingerprint: of the model that everything was computed on.
    """

    @property
    def shares(self) -> Mapping[int, Float[Tensor, " d_model"]]: ...

    @property
    def residual(self) -> Float[Tensor, " d_model"]: ...

    @property
    def bases(self) -> Mapping[int, Float[Tensor, " d_mlp"]]: ...

    @property
    def left(self) -> Mapping[int, float]: ...

    @property
    def fingerprint(self) -> str: ...

    def mean(self, layer: int) -> Float[Tensor, " d_mlp"]:
        """The mean key, `sum_c w_c k^c`, in float64."""
        ...

    def spread(self, layer: int) -> Float[Tensor, "rows d_mlp"]:
        """Rows X with `X^T X = D` up to what is `left` out, in float64."""
        ...


@dataclass(frozen=True, eq=False)
class Sums:
    """One layer's S and T, in float64. `a + b` adds the facts of `b` to those of `a`; `a - b` removes them again.

    left: the sum of tau, the trace of what S leaves out.
    """

    S: Float[Tensor, "d_mlp d_mlp"]
    T: Float[Tensor, "d_model d_mlp"]
    left: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.S + other.S, self.T + other.T, self.left + other.left)

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.S - other.S, self.T - other.T, self.left - other.left)

    def system(self, moment: Float[Tensor, "d_mlp d_mlp"], lam: float) -> Float[Tensor, "d_mlp d_mlp"]:
        """`(lam + left / tr C) C + S`; with lam 0, what the facts contribute to it."""
        C = moment.double()
        trace = float(C.trace())
        return (lam + (self.left / trace if trace else 0.0)) * C + self.S

    def solve(self, moment: Float[Tensor, "d_mlp d_mlp"], lam: float) -> Float[Tensor, "d_model d_mlp"]:
        """dW = T (lam C + S)^-1."""
        return spd_solve(self.system(moment, lam), self.T.T).T


def sums(contributions: Sequence[Contribution], layer: int, device: torch.device | str | None = None) -> Sums:
    """S and T of one layer for the keys and shares that were recorded, added up in the given order.

    Args:
        device: where they are added up; by default where the vectors are.

    Raises:
        ValueError: there are no contributions.
    """
    if not contributions:
        raise ValueError(
            "there are no contributions to add up: give at least one, and leave out clients without facts."
        )
    parts = [
        Sums(means.T @ means + spread(part, layer, device), shares.T @ means, left_out(part, layer))
        for part in _parts(contributions)
        for means, shares in [(stacked([one.mean(layer) for one in part], device), recorded(part, layer, device))]
    ]
    return sum(parts[1:], parts[0])


def spread(
    contributions: Sequence[Contribution], layer: int, device: torch.device | str | None = None
) -> Float[Tensor, "d_mlp d_mlp"]:
    """The sum of all facts' spreads at one layer, in float64."""
    total = 0
    for part in _parts(contributions):
        rows = torch.cat([one.spread(layer).to(device=device).double() for one in part])
        total = total + rows.T @ rows
    return total


def left_out(contributions: Sequence[Contribution], layer: int) -> float:
    """The sum of tau at one layer."""
    return sum(one.left.get(layer, 0.0) for one in contributions)


def rows(contribution: Contribution, layer: int) -> Float[Tensor, "rows d_mlp"]:
    """Rows X with `X^T X` the fact's contribution to S: its mean key and its spread, in float64."""
    return torch.cat([contribution.mean(layer).double()[None], contribution.spread(layer).double()])


def recorded(
    contributions: Sequence[Contribution], layer: int, device: torch.device | str | None = None
) -> Float[Tensor, "facts d_model"]:
    """The recorded shares of all facts at one layer, in float64."""
    return stacked([one.shares[layer] for one in contributions], device)


def stacked(vectors: Sequence[Tensor], device: torch.device | str | None = None) -> Float[Tensor, "facts width"]:
    """Vectors as the rows of a matrix, in float64."""
    return torch.stack([vector.to(device=device).double() for vector in vectors])


def _parts(contributions: Sequence[Contribution]) -> Iterator[Sequence[Contribution]]:
    for start in range(0, len(contributions), TOGETHER):
        yield contributions[start : start + TOGETHER]
