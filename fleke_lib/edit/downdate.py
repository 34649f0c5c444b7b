"""Remove facts from a solved edit, or add some, without factorising its systems again.

This is possible for the edit with coupling 0, from the recorded keys and shares (`closed_form.trajectory`). With
coupling, the keys of all facts depend on alpha, which depends on every fact: what remains is solved again.

Each layer's `dW = T (lam C + S)^-1` is a ridge regression. Facts that leave or join change its system by a matrix of
low rank. With these facts' weighted keys as the columns of U, their signs D (-1 to leave, +1 to join) and
A = lam C + S,

    A' = A + U D U^T,    A'^-1 = A^-1 - G (D^-1 + U^T G)^-1 G^T,    G = A^-1 U                          (Woodbury)
    dW' = (T + sum of D r m^T) A'^-1

The sum runs over the facts that leave or join, with the sign D, share r and mean key m of each. The factor of A is
computed once and serves every change. The facts must be whole: the trace that a packet of few axes leaves out counts in
the shape of C, which has full rank. For one leaving fact whose packet carries only its mean key m, this is the
leave-one-out identity of regression, `dW' = dW - (r - dW m) (1 - m^T A^-1 m)^-1 m^T A^-1`: the fact's residual divided
by one minus its leverage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.closed_form import LAMBDA, check_contributions
from fleke_lib.edit.edit import Edit
from fleke_lib.edit.moments import Moments
from fleke_lib.ridge.solve import LowRank, spd_factor
from fleke_lib.ridge.sums import Contribution, rows, sums


@dataclass(frozen=True, eq=False)
class FactoredLayer:
    """One layer's solution: the Cholesky factor of A = lam C + S, dW, and C."""

    factor: Float[Tensor, "d_mlp d_mlp"]
    change: Float[Tensor, "d_model d_mlp"]
    moment: Float[Tensor, "d_mlp d_mlp"]


@dataclass(frozen=True, eq=False)
class FactoredEdit:
    """A closed-form edit with coupling 0 and the Cholesky factors of its systems, `(d_mlp, d_mlp)` for each layer."""

    layers: Mapping[int, FactoredLayer]
    fingerprint: str

    def edit(self) -> Edit:
        """The edit of the original facts."""
        return self._edit({layer: factored.change for layer, factored in self.layers.items()})

    def changed(self, gone: Sequence[Contribution] = (), come: Sequence[Contribution] = ()) -> Edit:
        """The edit without the contributions `gone` and with the contributions `come`; the factors are not changed.

        Costs `O(d_mlp^2 n)` for n rows of keys instead of `O(d_mlp^3)`. Exact up to float64 rounding. The caller must
        make sure that `gone` were part of the original edit: sums do not record their terms.

        Raises:
            ValueError: a contribution leaves out a part of its spread.
        """
        if part := [one for one in (*gone, *come) if any(one.left.values())]:
            raise ValueError(
                f"{len(part)} contributions leave out a part of their spread, which no downdate can change: solve "
                "again, or publish packets without its trace."
            )
        if not gone and not come:
            return self.edit()
        return self._edit({layer: _changed(factored, gone, come, layer) for layer, factored in self.layers.items()})

    def _edit(self, changes: Mapping[int, Float[Tensor, "d_model d_mlp"]]) -> Edit:
        return Edit({layer: LowRank.of(dW) for layer, dW in changes.items()}, self.fingerprint, "trajectory")


def factorise(contributions: Sequence[Contribution], moments: Moments, lam: float = LAMBDA) -> FactoredEdit:
    """Solve the edit of `edit.trajectory` with coupling 0 and keep the factors of its systems.

    Args:
        contributions, moments, lam: as for `edit.trajectory`.

    Raises:
        ValueError: as for `edit.trajectory`.
    """
    layers = {}
    for layer in check_contributions(contributions, moments):
        total = sums(contributions, layer)
        factor = spd_factor(total.system(moments[layer], lam))
        layers[layer] = FactoredLayer(factor, torch.cholesky_solve(total.T.T, factor).T, moments[layer])
    return FactoredEdit(layers, contributions[0].fingerprint)


def _changed(
    factored: FactoredLayer, gone: Sequence[Contribution], come: Sequence[Contribution], layer: int
) -> Float[Tensor, "d_model d_mlp"]:
    contributions = [*gone, *come]
    keys = [rows(contribution, layer) for contribution in contributions]
    sign = torch.tensor([-1.0] * len(gone) + [1.0] * len(come), dtype=torch.float64)
    U = torch.cat(keys).T
    D = sign.repeat_interleave(torch.tensor([len(some) for some in keys]))
    means = torch.stack([contribution.mean(layer).double() for contribution in contributions], 1)
    shares = torch.stack([contribution.shares[layer].double() for contribution in contributions], 1)
    G = torch.cholesky_solve(U, factored.factor)
    inner = torch.diag(D) + U.T @ G  # D is its own inverse
    answered = torch.cholesky_solve(means, factored.factor)  # A^-1 m, and after the change A'^-1 m
    answered = answered - G @ torch.linalg.solve(inner, U.T @ answered)
    return factored.change - (factored.change @ U) @ torch.linalg.solve(inner, G.T) + (shares * sign) @ answered.T
