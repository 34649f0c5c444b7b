"""Weight updates in LoRA form, and how a server merges them: the usual way to send a fine-tuned model.

A client sends two factors for each layer, `B`, `(d_model, rank)`, and `A`, `(rank, d_mlp)`, with `dW = B A`. Its edit
of n facts has rank n, so a smaller rank loses a part of it. A server can merge such factors in two ways:

    mean of products     dW = step * sum_k w_k B_k A_k                  of rank clients * rank
    product of means     dW = step * (sum_k w_k B_k) (sum_k w_k A_k)    of rank `rank`

The first is exact (FLoRA, arXiv 2409.05976): it is `baselines.fedavg` of the clients' adapters, and their plain sum is
`baselines.fedsum`. The second is `average_factors` (FedIT, arXiv 2305.05644): it also multiplies each client's B with
every other client's A (FFA-LoRA, arXiv 2403.12313, describes this error). It depends on how a product is divided into
factors, since `B G` and `G^-1 A` have the same product for any invertible G. Here the division is the balanced one of
the singular value decomposition. FedIT's clients train their factors from one common start, which keeps the factors
alike; an edit in closed form has no such start.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit import Edit
from fleke_lib.federation.baselines import client_shares, in_order
from fleke_lib.ridge.solve import LowRank


def adapter(edit: Edit, rank: int) -> Edit:
    """The edit as a client sends it in LoRA form: each layer's nearest matrix of this rank, in balanced factors.

        dW = U S V^T,    B = U_r S_r^(1/2),    A = S_r^(1/2) V_r^T

    Nearest is meant in the Frobenius norm. Columns of B and rows of A are in the order of the singular values, and the
    entry of greatest magnitude of each row of A is positive. Beyond the rank of dW, both are 0.

    Raises:
        ValueError: the rank is less than 1.
    """
    if rank < 1:
        raise ValueError(f"rank={rank} is no rank: give 1 or more.")
    return replace(edit, changes={layer: _balanced(change, rank) for layer, change in edit.changes.items()})


def average_factors(adapters: Sequence[Edit], weights: Sequence[float] | None = None, step: float = 1.0) -> Edit:
    """`step` times the product of the clients' mean B and mean A.

    With one client this is its own update. With K clients whose factors are unrelated, a client's own product counts
    1/K^2, and the rest is products of one client's B and another's A.

    Args:
        adapters: from `adapter`, all of one rank.
        weights, step: as for `baselines.fedavg`.

    Raises:
        ValueError: the adapters have several ranks, or are of several models; or as for `baselines.fedavg`.

    Source: FedIT (Zhang et al., arXiv 2305.05644), for one round; with a server step.
    """
    if len({edit.fingerprint for edit in adapters}) > 1:
        raise ValueError("these adapters were computed on several models: give adapters that were computed on one.")
    if len(ranks := {change.rank for edit in adapters for change in edit.changes.values()}) > 1:
        raise ValueError(f"these adapters have the ranks {sorted(ranks)}: give adapters of one rank.")
    shares = {id(edit): share for edit, share in zip(adapters, client_shares(adapters, weights), strict=True)}
    ordered = in_order(adapters)

    def mean(factors: list[Tensor]) -> Tensor:
        return torch.stack([shares[id(edit)] * one for edit, one in zip(ordered, factors, strict=True)]).sum(0)

    changes = {
        layer: LowRank(
            step * mean([edit.changes[layer].left for edit in ordered]),
            mean([edit.changes[layer].right for edit in ordered]),
        )
        for layer in adapters[0].layers
    }
    return Edit(changes, adapters[0].fingerprint, "average-factors")


def _balanced(change: LowRank, rank: int) -> LowRank:
    """The nearest matrix of this rank; the singular values are those of a small matrix between two orthogonal ones."""
    outer, left = torch.linalg.qr(change.left.double())
    inner, right = torch.linalg.qr(change.right.double().T)
    u, s, v = torch.linalg.svd(left @ right.T, full_matrices=False)
    root = s[:rank].sqrt()
    b, a = outer @ u[:, :rank] * root, root[:, None] * (v[:rank] @ inner.T)
    sign = _sign(a)
    return LowRank(_widened(b * sign, rank), _widened((sign[:, None] * a).T, rank).T.contiguous())


def _sign(rows: Float[Tensor, "rank d_mlp"]) -> Float[Tensor, " rank"]:
    """The sign of each row's entry of greatest magnitude; the decomposition leaves it open."""
    greatest = rows.abs().argmax(1, keepdim=True)
    return torch.where(rows.gather(1, greatest)[:, 0] < 0, -1.0, 1.0).to(rows)


def _widened(columns: Float[Tensor, "d n"], rank: int) -> Float[Tensor, "d rank"]:
    return torch.nn.functional.pad(columns, (0, rank - columns.shape[1]))
