"""The linear algebra of editing: one regression per layer, in float64.

Each fact is a row. `K`, `(facts, d_mlp)`, holds one key per fact; `R`, `(facts, d_model)`, the wanted change of the
layer's output for that key. A weight change is stored as two factors, `dW = left @ right`, `(d_model, d_mlp)`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """A `(d_model, d_mlp)` matrix `left @ right` of rank at most n."""

    left: Float[Tensor, "d_model n"]
    right: Float[Tensor, "n d_mlp"]

    @classmethod
    def of(cls, dense: Float[Tensor, "d_model d_mlp"]) -> "LowRank":
        """Store a dense matrix as identity times matrix, for changes that no smaller factors represent."""
        return cls(torch.eye(len(dense), dtype=dense.dtype, device=dense.device), dense.contiguous())

    def dense(self) -> Float[Tensor, "d_model d_mlp"]:
        """The matrix itself."""
        return self.left @ self.right

    def smallest(self) -> "LowRank":
        """The same matrix, without factors where a dense one takes less room: beyond rank d_model."""
        return LowRank.of(self.dense()) if self.rank > len(self.left) else self

    def to(self, device: torch.device | None) -> "LowRank":
        """The same factors on a device; where they are with None."""
        return LowRank(self.left.to(device=device), self.right.to(device=device))

    def is_finite(self) -> bool:
        """Whether all entries of both factors are finite numbers."""
        return bool(self.left.isfinite().all() and self.right.isfinite().all())

    @property
    def rank(self) -> int:
        return self.left.shape[1]


def ridge(
    keys: Float[Tensor, "facts d_mlp"],
    residuals: Float[Tensor, "facts d_model"],
    moment: Float[Tensor, "d_mlp d_mlp"],
    lam: float,
) -> LowRank:
    """MEMIT's update: `dW = R^T K (lam C + K^T K)^-1`, which minimises `|dW K^T - R^T|^2 + lam tr(dW C dW^T)`.

    Source: MEMIT, arXiv 2210.07229, equation 14.
    """
    k, r = keys.double(), residuals.double()
    return LowRank(r.T.contiguous(), spd_solve(lam * moment.to(k) + k.T @ k, k.T).T.contiguous())


def null_space(moment: Float[Tensor, "d_mlp d_mlp"], threshold: float) -> Float[Tensor, "d_mlp d_mlp"]:
    """The projector onto the eigenvectors of C with eigenvalues under `threshold`: directions ordinary keys hardly use.

    Source: AlphaEdit (ICLR 2025), equation 7 and public code.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    unused = vectors[:, values < threshold]
    return unused @ unused.T


def projected_ridge(
    keys: Float[Tensor, "facts d_mlp"],
    residuals: Float[Tensor, "facts d_model"],
    projector: Float[Tensor, "d_mlp d_mlp"],
    weight: float,
) -> LowRank:
    """AlphaEdit's update: `dW = R^T K P (K^T K P + weight I)^-1`; dW ignores the key components that P removes.

    Source: AlphaEdit, equation 14, without earlier edits.
    """
    k, r = keys.double(), residuals.double()
    seen = k @ projector.to(k)
    # push-through identity: K P (K^T K P + w I)^-1 = (K P K^T + w I)^-1 K P, a facts x facts system
    system = seen @ k.T + weight * torch.eye(len(k), dtype=k.dtype, device=k.device)
    return LowRank(r.T.contiguous(), spd_solve(system, seen))


def interpolate(
    direction: Float[Tensor, " d_mlp"], key: Float[Tensor, " d_mlp"], residual: Float[Tensor, " d_model"]
) -> LowRank:
    """ROME's update: the rank-one `dW = r u^T / (u^T k)`, for which `dW k = r` exactly.

    Source: ROME, arXiv 2202.05262, equation 2, with `u = C^-1 k`.
    """
    u, k, r = direction.double(), key.double(), residual.double()
    return LowRank(r[:, None], (u / (u @ k))[None])


def spd_solve(a: Tensor, b: Tensor) -> Tensor:
    """`a^-1 b` for a symmetric positive definite `a`, `(n, n)`, and `b`, `(n, columns)`.

    Raises:
        ValueError: `a` is singular, because C was measured on too few tokens and lam or the weight is too small, or it
            has entries that are not finite.
    """
    return torch.cholesky_solve(b, spd_factor(a))


def spd_factor(a: Tensor) -> Tensor:
    """The lower Cholesky factor, `(n, n)`, of a symmetric positive definite `a`. Raises ValueError as `spd_solve`."""
    factor, info = torch.linalg.cholesky_ex(a)
    if not a.isfinite().all():
        raise ValueError(
            f"the system of {len(a)} unknowns has entries that are not finite numbers: give finite moments and keys."
        )
    if info:
        raise ValueError(
            f"the system of {len(a)} unknowns is singular: measure C on more tokens, or give a greater lambda."
        )
    return factor
