"""A solved edit that facts leave and join, without solving again.

Each layer's `dW = T (lam C + S)^-1` is a ridge regression, and facts that go or come change its system by a matrix of
low rank. With the rows U of these facts' keys, their signs D (-1 for what goes, +1 for what comes) and A = lam C + S,

    A' = A + U D U^T,    A'^-1 = A^-1 - G (D^-1 + U^T G)^-1 G^T,    G = A^-1 U                          (Woodbury)
    dW' = (T + sum of D r m^T) A'^-1

so that the factor of A, made once, answers for every change. Where a packet carries its mean key m alone, this is the
leave-one-out identity of regression: `dW' = dW - (r - dW m) (1 - m^T A^-1 m)^-1 m^T A^-1`, what the fact was still
missing over what it left to the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.closed_form import LAMBDA, check_paths
from fleke_lib.edit.edit import Edit
from fleke_lib.edit.moments import Moments
from fleke_lib.ridge.solve import LowRank, spd_factor
from fleke_lib.ridge.sums import Contribution, sums


@dataclass(frozen=True, eq=False)
class FactoredLayer:
    """One layer's solution: the Cholesky factor of A = lam C + S, and dW."""

    factor: Float[Tensor, "d_mlp d_mlp"]
    change: Float[Tensor, "d_model d_mlp"]


@dataclass(frozen=True, eq=False)
class FactoredEdit:
    """A closed-form edit whose systems are kept: `d_mlp^2` numbers in float64 for each layer."""

    layers: Mapping[int, FactoredLayer]
    fingerprint: str

    def edit(self) -> Edit:
        """The edit as it was solved."""
        return self._edit({layer: factored.change for layer, factored in self.layers.items()})

    def changed(self, gone: Sequence[Contribution] = (), come: Sequence[Contribution] = ()) -> Edit:
        """The edit without the paths that are gone and with those that have come; the factors stay as they are.

        Takes `O(d_mlp^2 n)` for n rows of keys, instead of `O(d_mlp^3)`. Exact but for float64's rounding. That what
        is gone was there is for the caller to know: sums do not remember their terms.
        """
        if not gone and not come:
            return self.edit()
        return self._edit({layer: _changed(factored, gone, come, layer) for layer, factored in self.layers.items()})

    def _edit(self, changes: Mapping[int, Float[Tensor, "d_model d_mlp"]]) -> Edit:
        return Edit({layer: LowRank.of(dW) for layer, dW in changes.items()}, self.fingerprint, "trajectory")


def factorise(paths: Sequence[Contribution], moments: Moments, lam: float = LAMBDA) -> FactoredEdit:
    """The closed-form edit of these paths as `edit.trajectory` solves it, with its systems kept.

    Args:
        paths, moments, lam: as for `edit.trajectory`.
    """
    layers = {}
    for layer in check_paths(paths, moments):
        total = sums(paths, layer)
        factor = spd_factor(lam * moments[layer].double() + total.S)
        layers[layer] = FactoredLayer(factor, torch.cholesky_solve(total.T.T, factor).T)
    return FactoredEdit(layers, paths[0].fingerprint)


def _changed(
    factored: FactoredLayer, gone: Sequence[Contribution], come: Sequence[Contribution], layer: int
) -> Float[Tensor, "d_model d_mlp"]:
    paths = [*gone, *come]
    rows = [path.rows(layer).double() for path in paths]
    sign = torch.tensor([-1.0] * len(gone) + [1.0] * len(come), dtype=torch.float64)
    U = torch.cat(rows).T
    D = sign.repeat_interleave(torch.tensor([len(some) for some in rows]))
    means = torch.stack([path.mean(layer).double() for path in paths], 1)
    shares = torch.stack([path.shares[layer].double() for path in paths], 1)
    G = torch.cholesky_solve(U, factored.factor)
    inner = torch.diag(D) + U.T @ G  # D is its own inverse
    answered = torch.cholesky_solve(means, factored.factor)  # A^-1 m, and after the change A'^-1 m
    answered = answered - G @ torch.linalg.solve(inner, U.T @ answered)
    return factored.change - (factored.change @ U) @ torch.linalg.solve(inner, G.T) + (shares * sign) @ answered.T
