"""How a packet compresses a trajectory: per layer a mean key and a few principal axes, in a chosen precision.

With context weights w_c that sum to one, mean key m, and the bystanders' keys q (preservation keys: those of the
prompt's other tokens), a fact's part of S is

    sum_c w_c k^c (k^c)^T + beta sum_t q^t (q^t)^T = m m^T + sum_j d_j d_j^T

The d_j are the scaled principal axes of the remainder: the spread of the contexts around m, and the bystanders' keys.
With one axis fewer than there are contexts and bystanders the sum is exact. With fewer axes it is the best
approximation of that rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.facts.contexts import context_weights

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
STATES = ("z", "h")  # never in 8 bits: one huge entry of a state sets a scale too coarse for r = z - h


@dataclass(frozen=True)
class Compression:
    """How much of a trajectory a packet carries.

    axes: number of axes d_j per layer, from 0.
    precision: "float32", "float16" or "int8"; int8 adds a float32 scale for every vector and keeps z and h in float16.

    Raises:
        ValueError: an unknown precision, or a negative number of axes.
    """

    axes: int = 1
    precision: str = "int8"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}: give one of {', '.join(PRECISIONS)}.")
        if self.axes < 0:
            raise ValueError(f"axes is {self.axes}: give 0 or more.")


def split(path: Trajectory, layer: int, axes: int) -> tuple[Float[Tensor, " d_mlp"], Float[Tensor, "axes d_mlp"]]:
    """The mean key and the first axes of the remainder, `d_j = s_j v_j` with the greatest singular values s_j.

    Axes beyond the remainder's rank are zero.
    """
    rows, mean = path.rows(layer), path.mean(layer)
    roots = context_weights(len(path.keys[layer])).to(rows).sqrt()
    around = torch.cat([rows[: len(roots)] - roots[:, None] * mean, rows[len(roots) :]])
    _, s, v = torch.linalg.svd(around, full_matrices=False)
    axis = s[:axes, None] * v[:axes]
    largest = axis.gather(1, axis.abs().argmax(1, keepdim=True))
    missing = axis.new_zeros(axes - len(axis), len(mean))
    return mean, torch.cat([axis * largest.sign(), missing])  # fixes the arbitrary sign of a singular vector


def encode(name: str, vector: Tensor, precision: str) -> dict[str, Tensor]:
    """Vectors in their stored type; in 8 bits each has its own scale, `x = scale * q` with q from -127 to 127."""
    vector = vector.detach().cpu().float()
    kind = stored_type(name, precision)
    if kind != torch.int8:
        return {name: vector.to(kind)}
    scale = vector.abs().amax(-1, keepdim=True) / 127
    return {name: (vector / scale.clamp(min=1e-30)).round().to(torch.int8), f"{name}.scale": scale}


def stored_type(name: str, precision: str) -> torch.dtype:
    """The stored type of the vectors with this name: states have 16 bits where everything else has 8."""
    return torch.float16 if precision == "int8" and name in STATES else PRECISIONS[precision]


def decode(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The vectors with this name in float32: the input of `encode`, up to its rounding."""
    plain = tensors[name].float()
    return plain * tensors[f"{name}.scale"] if f"{name}.scale" in tensors else plain
