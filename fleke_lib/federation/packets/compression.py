"""How much of a trajectory a packet carries, and with how many bits: mean keys, a few principal axes, a precision.

With weighted contexts (weights sum to one), mean key m, and the keys q of bystanders, a fact's part of S is

    sum_c w_c k^c (k^c)^T + beta sum_t q^t (q^t)^T = m m^T + sum_j d_j d_j^T

where the d_j are the scaled principal axes of what is not m: the contexts' spread, and the bystanders. With as many
axes as there are contexts and bystanders, less one, nothing is lost; with fewer it is the best approximation of that
rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.facts.contexts import context_weights

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
STATES = ("z", "h")  # never in 8 bits: one huge number in a state would drown the small ones of r = z - h


@dataclass(frozen=True)
class Compression:
    """How much of a trajectory a packet carries: `axes` d_j a layer, and the `precision` of every number.

    precision: "float32", "float16" or "int8"; the last keeps a float32 scale for every vector, and z and h in 16 bits.
    """

    axes: int = 1
    precision: str = "int8"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}: give one of {', '.join(PRECISIONS)}.")
        if self.axes < 0:
            raise ValueError(f"axes is {self.axes}: give 0 or more.")


def split(path: Trajectory, layer: int, axes: int) -> tuple[Float[Tensor, " d_mlp"], Float[Tensor, "axes d_mlp"]]:
    """The mean key and the first axes of what remains, `d_j = s_j v_j` with the greatest singular values s_j."""
    rows, mean = path.rows(layer), path.mean(layer)
    roots = context_weights(len(path.keys[layer])).to(rows).sqrt()
    around = torch.cat([rows[: len(roots)] - roots[:, None] * mean, rows[len(roots) :]])
    _, s, v = torch.linalg.svd(around, full_matrices=False)
    axis = s[:axes, None] * v[:axes]
    largest = axis.gather(1, axis.abs().argmax(1, keepdim=True))
    missing = axis.new_zeros(axes - len(axis), len(mean))
    return mean, torch.cat([axis * largest.sign(), missing])  # a singular vector's sign is arbitrary, a packet's is not


def encode(name: str, vector: Tensor, precision: str) -> dict[str, Tensor]:
    """The vectors as they travel; with 8 bits each keeps its own scale, `x = scale * q` with q from -127 to 127."""
    vector = vector.detach().cpu().float()
    kind = stored_type(name, precision)
    if kind != torch.int8:
        return {name: vector.to(kind)}
    scale = vector.abs().amax(-1, keepdim=True) / 127
    return {name: (vector / scale.clamp(min=1e-30)).round().to(torch.int8), f"{name}.scale": scale}


def stored_type(name: str, precision: str) -> torch.dtype:
    """The type in which the vectors of a name travel: states keep 16 bits where all else has 8."""
    return torch.float16 if precision == "int8" and name in STATES else PRECISIONS[precision]


def decode(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The vectors of a name in float32, as `encode` was given them, but for its rounding."""
    plain = tensors[name].float()
    return plain * tensors[f"{name}.scale"] if f"{name}.scale" in tensors else plain
