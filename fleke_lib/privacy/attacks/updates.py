"""Whose keys made a weight update, or a sum? What FedAvg and CollabEdit ship, and what secure aggregation totals.

The attacker sees one layer's dW, or S, or T: of one client, or the total of several. It has C and the keys of candidate
subjects (`subject.dictionary`), and asks how well each candidate is explained by what it sees. With C = R R^T and
whitened keys x = R^-1 k,

    dW = sum q k^T (lam C + S)^-1      the rows of dW R lie in the span of all x, up to the spread in S
    T  = sum r k^T                     the rows of T R^-T lie in the span of all x
    S  = sum k k^T + D                 k^T (S + eps C)^-1 k is small for a key that S has, up to its spread

The score from dW and from T is the share of x within that span, |P x|^2 / |x|^2. dW and T have at most d_model rows:
with more facts than that, their span does not hold every x any more, and S has the better order. In the manner of KSTER
(arXiv 2602.10134).

`target_scores` goes on to the answers: T (S + eps C)^-1 and dW map a fact's key to a part of its residual.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fleke_lib.model.language_model import LanguageModel
from fleke_lib.privacy.attacks.target import with_template
from fleke_lib.ridge.solve import spd_factor, spd_solve
from fleke_lib.ridge.sums import Sums

FLOOR = 1e-3  # of C's mean eigenvalue, added to C before its root
SMALL = 1e-3  # eps, relative to the sizes of S and C
TOLERANCE = 1e-6  # relative size under which a singular value counts as rounding


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates' keys, whitened once for all attacks on one layer.

    root: R. directions: x / |x| of each candidate behind each beginning.
    """

    root: Float[Tensor, "d_mlp d_mlp"]
    directions: Float[Tensor, "beginnings candidates d_mlp"]

    @classmethod
    def of(
        cls, keys: Float[Tensor, "beginnings candidates d_mlp"], moment: Float[Tensor, "d_mlp d_mlp"]
    ) -> "Candidates":
        """Keys at the first edited layer, such as those of `subject.dictionary`, and C of this layer."""
        R = spd_factor(floored(moment))
        return cls(R, normalize(whitened(keys, R), dim=-1))

    def inside(self, basis: Float[Tensor, "d_mlp rank"]) -> Float[Tensor, " candidates"]:
        """|P x|^2 / |x|^2 for the span of an orthonormal basis, the best over the beginnings."""
        return (self.directions @ basis).square().sum(-1).amax(0)

    def sizes(self, matrix: Float[Tensor, "n d_mlp"]) -> Float[Tensor, " candidates"]:
        """|M x| / |x| for a matrix in whitened coordinates, the best over the beginnings."""
        return (self.directions @ matrix.T).norm(dim=-1).amax(0)


def floored(moment: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """C in float64, with a small multiple of the identity added, so that its root has an inverse."""
    C = moment.double()
    return C + FLOOR * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype)


def whitened(keys: Float[Tensor, "*n d_mlp"], R: Float[Tensor, "d_mlp d_mlp"]) -> Float[Tensor, "*n d_mlp"]:
    """R^-1 k of each key."""
    rows = keys.double().reshape(-1, keys.shape[-1])
    return torch.linalg.solve_triangular(R, rows.T, upper=False).T.reshape(keys.shape)


def row_space(matrix: Float[Tensor, "n d"], rank: int | None = None) -> Float[Tensor, "d rank"]:
    """An orthonormal basis of a matrix's row space; with `rank`, of its first right singular vectors."""
    _, s, v = torch.linalg.svd(matrix, full_matrices=False)
    count = int((s > TOLERANCE * s.max()).sum()) if rank is None else rank
    return v[:count].T


def from_update(change: Float[Tensor, "d_model d_mlp"], candidates: Candidates) -> Float[Tensor, " candidates"]:
    """Scores of the candidates from dW of the first edited layer."""
    return candidates.inside(row_space(change.double() @ candidates.root))


def size_in_update(change: Float[Tensor, "d_model d_mlp"], candidates: Candidates) -> Float[Tensor, " candidates"]:
    """|dW k| / |x|: how much the update changes the output for each candidate's key.

    The attack on camouflage (`privacy.camouflage`): a decoy is in the row space, but its output may change little.
    """
    return candidates.sizes(change.double() @ candidates.root)


def size_in_T(T: Float[Tensor, "d_model d_mlp"], candidates: Candidates) -> Float[Tensor, " candidates"]:
    """|T R^-T x| / |x|: the attack on a noisy T, whose rows span everything, so that `from_T` has little order left."""
    return candidates.sizes(whitened(T, candidates.root))


def from_T(T: Float[Tensor, "d_model d_mlp"], candidates: Candidates) -> Float[Tensor, " candidates"]:
    """Scores of the candidates from T of the first edited layer."""
    return candidates.inside(row_space(whitened(T, candidates.root)))


def from_S(S: Float[Tensor, "d_mlp d_mlp"], candidates: Candidates) -> Float[Tensor, " candidates"]:
    """Scores of the candidates from S of the first edited layer: 1 - k^T (S + eps C)^-1 k / k^T (eps C)^-1 k.

    Its first form alone would prefer short keys. The score is 0 for a key of which S has nothing, and nearly 1 for one
    that is in S. In whitened coordinates it is 1 - eps x^T (R^-1 S R^-T + eps)^-1 x / |x|^2.
    """
    R = candidates.root
    inner = whitened(whitened(S, R).T, R)
    eps = _eps(S, R @ R.T)
    factor = spd_factor(inner + eps * torch.eye(len(inner), dtype=inner.dtype))
    return (1 - eps * whitened(candidates.directions, factor).square().sum(-1)).amax(0)


def operator(total: Sums, moment: Float[Tensor, "d_mlp d_mlp"]) -> Float[Tensor, "d_model d_mlp"]:
    """T (S + eps C)^-1, which maps a key that is in the sums nearly to its share."""
    C = floored(moment)
    return spd_solve(total.S + _eps(total.S, C) * C, total.T.T).T


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


def _eps(S: Tensor, C: Tensor) -> float:
    return SMALL * float(S.diagonal().mean() / C.diagonal().mean())
