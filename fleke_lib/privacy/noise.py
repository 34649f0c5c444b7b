"""Noise on the vectors of a packet: it costs the edit long before it costs an attacker who expects it.

Every vector gets Gaussian noise of a chosen length, in units of its own. A packet repeats what it says: the residual r
and a share at every layer point in nearly the same direction, and each has its own noise. The attacker, a server that
knows the prompt by now (`attacks.subject` reads subjects from h and the keys), averages them, adds the result
to the h that it computes itself, and runs the layers above L. It sees packets, knows their prompts, and knows the usual
length of a residual from MKVs of its own.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.privacy.attacks.target import with_template


def noisy(path: Trajectory, mkv: Mkv, scale: float, seed: int) -> tuple[Trajectory, Mkv]:
    """A trajectory and an MKV in which every vector v has become v + scale |v| e, with e a random direction.

    z is the noisy h plus the noisy residual; noise of the size of z would leave nothing of r.

    Raises:
        ValueError: a negative scale.
    """
    if scale < 0:
        raise ValueError(f"scale is {scale}: give the noise's length in units of each vector's, 0 or more.")
    generator = torch.Generator().manual_seed(seed)

    def changed(vectors: Tensor) -> Tensor:
        e = normalize(torch.randn(vectors.shape, generator=generator, dtype=torch.float64), dim=-1)
        return (vectors.double() + scale * vectors.double().norm(dim=-1, keepdim=True) * e).to(vectors.dtype)

    parts = {
        name: {layer: changed(vectors) for layer, vectors in getattr(path, name).items()}
        for name in ("keys", "shares", "bystanders", "bases")
    }
    h, residual = changed(mkv.h), changed(path.residual)
    return replace(path, residual=residual, **parts), replace(mkv, h=h, z=h + residual)


def averaged(packets: Sequence[Packet]) -> Float[Tensor, "packets d_model"]:
    """The direction of each packet's residual: the mean of the unit vectors of r and of all shares, at unit length."""
    each = [[packet.residual, *packet.shares.values()] for packet in packets]
    return normalize(torch.stack([normalize(torch.stack(some).double(), dim=1).mean(0) for some in each]), dim=1)


def target_scores(
    lm: LanguageModel,
    packets: Sequence[Packet],
    h: Float[Tensor, "packets d_model"],
    length: float,
    templates: Sequence[str],
    subjects: Sequence[str],
) -> Float[Tensor, "packets vocabulary"]:
    """Scores of all tokens as the target by the adaptive attacker: 2 log P - log P of the base model.

    Args:
        h: of the prompts, computed on the public model.
        length: the usual |z - h| / |h|.
        templates, subjects: of the prompts that the attacker has read.
    """
    layer = packets[0].layers[-1]
    moved = (h.double() + length * h.double().norm(dim=1, keepdim=True) * averaged(packets)).float()
    with_it, without = (with_template(lm, states, layer, templates, subjects) for states in (moved, h))
    return 2 * with_it - without
