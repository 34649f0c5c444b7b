"""Whose keys made a weight update, or a sum? What FedAvg and CollabEdit ship, and what secure aggregation totals.

The attacker sees one layer's dW, or S, or T: of one client, or the total of several. It has C and the keys of candidate
subjects (`subject.dictionary`), and asks how well each candidate is explained by what it sees. With C = R R^T and
whitened keys x = R^-1 k,

    dW = sum q k^T (lam C + S)^-1      the rows of dW R lie in the span of all x, up to the spread in S
    T  = sum r k^T                     the rows of T R^-T lie in the span of all x
    S  = sum k k^T + D                 k^T (S + eps C)^-1 k is small for a key that S has, up to its spread

The score from dW and from T is the share of x within that span, |P x|^2 / |x|^2. Once as many facts as d_model are in a
sum, T spans everything that it can and the order comes from S alone. In the manner of KSTER (arXiv 2602.10134).

`target_scores` goes on to the answers: T (S + eps C)^-1 and dW map a fact's key to a part of its residual.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fleke_lib.model.language_model import LanguageModel
from fleke_lib.privacy.attacks.subject import Dictionary
from fleke_lib.privacy.attacks.target import with_template
from fleke_lib.ridge.solve import spd_factor, spd_solve
from fleke_lib.ridge.sums import Sums

FLOOR = 1e-3  # of C's mean eigenvalue, added to C before its root
SMALL = 1e-3  # eps, relative to the sizes of S and C
TOLERANCE = 1e-6  # relative size under which a singular value counts as rounding


def keys_of(known: Dictionary) -> Float[Tensor, "beginnings candidates d_mlp"]:
    """The keys of a dictionary's candidates behind each beginning."""
    return torch.stack([each.key for each in known.views])


def root(moment: Float[Tensor, "d_mlp d_mlp"]) -> Float[Tensor, "d_mlp d_mlp"]:
    """R with R R^T = C, and a floor under C's eigenvalues."""
    C = moment.double()
    return spd_factor(C + FLOOR * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype))


def whitened(keys: Float[Tensor, "*n d_mlp"], R: Float[Tensor, "d_mlp d_mlp"]) -> Float[Tensor, "*n d_mlp"]:
    """R^-1 k of each key."""
    rows = keys.double().reshape(-1, keys.shape[-1])
    return torch.linalg.solve_triangular(R, rows.T, upper=False).T.reshape(keys.shape)


def row_space(matrix: Float[Tensor, "n d"], rank: int | None = None) -> Float[Tensor, "d rank"]:
    """An orthonormal basis of a matrix's row space; with `rank`, of its first right singular vectors."""
    _, s, v = torch.linalg.svd(matrix, full_matrices=False)
    count = int((s > TOLERANCE * s.max()).sum()) if rank is None else rank
    return v[:count].T


def share_inside(
    keys: Float[Tensor, "beginnings candidates d_mlp"],
    R: Float[Tensor, "d_mlp d_mlp"],
    basis: Float[Tensor, "d_mlp rank"],
) -> Float[Tensor, " candidates"]:
    """|P x|^2 / |x|^2 of the whitened keys, the best over the beginnings."""
    return (normalize(whitened(keys, R), dim=-1) @ basis).square().sum(-1).amax(0)


def from_update(
    change: Float[Tensor, "d_model d_mlp"],
    moment: Float[Tensor, "d_mlp d_mlp"],
    keys: Float[Tensor, "beginnings candidates d_mlp"],
) -> Float[Tensor, " candidates"]:
    """Scores of the candidates from dW of the first edited layer."""
    R = root(moment)
    return share_inside(keys, R, row_space(change.double() @ R))


def from_T(
    T: Float[Tensor, "d_model d_mlp"],
    moment: Float[Tensor, "d_mlp d_mlp"],
    keys: Float[Tensor, "beginnings candidates d_mlp"],
) -> Float[Tensor, " candidates"]:
    """Scores of the candidates from T of the first edited layer."""
    R = root(moment)
    return share_inside(keys, R, row_space(whitened(T, R)))


def from_S(
    S: Float[Tensor, "d_mlp d_mlp"],
    moment: Float[Tensor, "d_mlp d_mlp"],
    keys: Float[Tensor, "beginnings candidates d_mlp"],
) -> Float[Tensor, " candidates"]:
    """Scores of the candidates from S of the first edited layer: 1 - k^T (S + eps C)^-1 k / k^T (eps C)^-1 k.

    The second form alone would prefer short keys; the ratio is 1 for a key of which S has nothing.
    """
    rows = keys.double().flatten(0, 1)
    little = _little(S, moment)
    with_it, without = ((rows * spd_solve(system, rows.T).T).sum(1) for system in (S.double() + little, little))
    return (1 - with_it / without).unflatten(0, keys.shape[:2]).amax(0)


def operator(total: Sums, moment: Float[Tensor, "d_mlp d_mlp"]) -> Float[Tensor, "d_model d_mlp"]:
    """T (S + eps C)^-1, which maps a key that is in the sums nearly to its share."""
    return spd_solve(total.S + _little(total.S, moment), total.T.T).T


def target_scores(
    lm: LanguageModel,
    change: Float[Tensor, "d_model d_mlp"],
    keys: Float[Tensor, "victims d_mlp"],
    h: Float[Tensor, "victims d_model"],
    layer: int,
    length: float,
    templates: Sequence[str],
) -> Float[Tensor, "victims vocabulary"]:
    """Scores of all tokens as the target, where subject and template are known, or named before.

    Args:
        change: dW or `operator`, at the first edited layer.
        keys, h: of the victims' subjects in their templates, from `public.views`.
        layer: L.
        length: the usual |z - h| / |h|, which the attacker knows from MKVs of facts of its own.
        templates: one for each victim.
    """
    r = normalize(keys.double() @ change.double().T, dim=1) * (length * h.double().norm(dim=1, keepdim=True))
    return with_template(lm, (h.double() + r).float(), layer, templates)


def found_among(scores: Float[Tensor, " candidates"], members: Int[Tensor, " facts"]) -> int:
    """How many members are among the candidates with the highest scores, as many as there are members."""
    best = scores.topk(len(members)).indices
    return int(torch.isin(members, best).sum())


def _little(S: Tensor, moment: Tensor) -> Tensor:
    C = moment.double() + FLOOR * moment.double().diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
    return SMALL * S.double().diagonal().mean() / C.diagonal().mean() * C
