"""A keyed rotation of vectors: retrieval survives it, and so does the attack. Taught, and never offered as protection.

Clients who share a secret multiply every vector by the same orthogonal matrix Q. Inner products and cosines stay as
they are, so a server can still retrieve. But they stay as they are for the attacker too. It sees rotated vectors, and
computes the plain ones of candidate prompts on the public model:

    |Q x| = |x|                     the length alone is a fingerprint of the prompt; no known pair is needed
    <Q x, Q y> = <x, y>             where lengths are hidden, two packets together are a fingerprint of two prompts
    <Q x, Q a> = <x, a>             each packet whose plain vector a is known adds one number
    min |X Q^T - Y|                 enough known or matched pairs give Q (orthogonal Procrustes), and everything with it

Candidates are compared in float64, each number divided by its own rounding error (`rounding`), which the attacker
measures with a rotation of its own.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fleke_lib.federation.packets.precision import decode, encode

LEAST = 1e-9  # error that is assumed at least, so that no number decides alone


@dataclass(frozen=True, eq=False)
class Rotation:
    """An orthogonal matrix that everybody with the secret can compute. `rotation(x)` is Q x of each row x."""

    matrix: Float[Tensor, "d d"] = field(repr=False)

    @classmethod
    def keyed(cls, secret: bytes, width: int, purpose: str = "") -> "Rotation":
        """The rotation of vectors of one width. purpose: a name, for instance of a layer that has its own rotation."""
        digest = hmac.new(secret, f"rotation {width} {purpose}".encode(), hashlib.sha256).digest()
        return cls.drawn(int.from_bytes(digest[:7], "little"), width)

    @classmethod
    def drawn(cls, seed: int, width: int) -> "Rotation":
        """A rotation by a seed, uniform over all: QR of normal numbers with the signs of R's diagonal made positive."""
        normal = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        q, r = torch.linalg.qr(normal)
        return cls(q * r.diagonal().sign())

    def __call__(self, vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return (vectors.double() @ self.matrix.T).to(vectors.dtype)


def stored(vectors: Float[Tensor, "*n d"], name: str, precision: str = "int4") -> Float[Tensor, "*n d"]:
    """Vectors as a receiver reads them from a packet, where they are called `name` ("h", "means", ...)."""
    return decode(encode(name, vectors, precision), name, vectors.shape[-1])


def features(
    vectors: Float[Tensor, "n d"], anchors: Float[Tensor, "pairs d"] | None = None, lengths: bool = True
) -> Float[Tensor, "n numbers"]:
    """What a rotation keeps of each vector: its length, and its inner products with the known ones.

    Args:
        anchors: the known packets' vectors, on the same side of the rotation as `vectors`.
        lengths: False if all vectors are sent at unit length; then cosines are all that is left.
    """
    x = vectors.double()
    kept = [x.norm(dim=1, keepdim=True)] if lengths else [x[:, :0]]
    if anchors is not None:
        x, a = (x, anchors.double()) if lengths else (normalize(x, dim=1), normalize(anchors.double(), dim=1))
        kept.append(x @ a.T)
    return torch.cat(kept, 1)


def pair_features(groups: Sequence[Float[Tensor, "n d"]]) -> Float[Tensor, "n n numbers"]:
    """What a rotation keeps of every pair of packets at unit length: a cosine for each kind of vector."""
    units = [normalize(vectors.double(), dim=1) for vectors in groups]
    return torch.stack([unit @ unit.T for unit in units], -1)


def rounding(seen: Float[Tensor, "*n numbers"], exact: Float[Tensor, "*n numbers"]) -> Float[Tensor, " numbers"]:
    """The error of each number: from candidates that the attacker rotated and stored itself, and their exact ones."""
    error = (seen - exact).flatten(0, -2)
    return error.square().mean(0).sqrt().clamp_min(LEAST)


def matched(
    seen: Float[Tensor, "n numbers"], candidates: Float[Tensor, "m numbers"], error: Float[Tensor, " numbers"]
) -> Float[Tensor, "n m"]:
    """The score of each candidate for each rotated packet: minus the squared distance in units of the error."""
    return -torch.stack([((row - candidates) / error).square().sum(1) for row in seen])


def undone(
    rotated: Float[Tensor, "n d"], pairs: Float[Tensor, "pairs d"], plain: Float[Tensor, "pairs d"]
) -> Float[Tensor, "n d"]:
    """The vectors rotated back, as far as known pairs determine it: orthogonal Procrustes within their span.

    Fewer pairs than dimensions leave directions open; these parts come back as zero.

    Args:
        pairs, plain: the known packets' rotated and plain vectors, or those of packets that were matched.
    """
    u, s, v = torch.linalg.svd(pairs.double().T @ plain.double(), full_matrices=False)
    sure = s > 1e-10 * s.max()
    return (rotated.double() @ u[:, sure] @ v[sure]).to(rotated.dtype)
