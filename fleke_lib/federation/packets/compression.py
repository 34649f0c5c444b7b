"""How a packet compresses a trajectory: per layer a mean key and a few principal axes of its spread.

A fact's spread at a layer, with context weights w_c, mean key m and bystanders' keys q, is

    D = sum_c w_c (k^c - m) (k^c - m)^T + beta sum_t q^t (q^t)^T = sum_j d_j d_j^T

where d_j are its scaled principal axes. A packet carries the first few of them, and what they leave out only as its
trace, tau = tr D - sum |d_j|^2. Whoever solves adds it in the shape of C, as tau C / tr C: bystanders are keys of
ordinary words, and a prefix moves a key as ordinary text does. With all axes nothing is left out.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.federation.packets.precision import KINDS


@dataclass(frozen=True)
class Compression:
    """How much of a trajectory a packet carries.

    axes: number of axes d_j per layer, from 0.
    precision: "float32", "float16", "int8" or "int4". The last two keep z and h in float16. "int4" keeps shares in 8
        bits, and stores mean keys, their way from the base model's, and axes in 4.
    trace: send the trace of what the axes leave out. Without it, what they leave out is lost, and facts can be removed
        from a solved edit by a downdate (`fleke_lib.edit.downdate`).

    Raises:
        ValueError: an unknown precision, or a negative number of axes.
    """

    axes: int = 4
    precision: str = "int4"
    trace: bool = True

    def __post_init__(self) -> None:
        if self.precision not in KINDS:
            raise ValueError(f"precision is {self.precision!r}: give one of {', '.join(KINDS)}.")
        if self.axes < 0:
            raise ValueError(f"axes is {self.axes}: give 0 or more.")


def principal(path: Trajectory, layer: int, axes: int) -> tuple[Float[Tensor, "axes d_mlp"], float]:
    """The first axes of the spread, `d_j = s_j v_j` with the greatest singular values s_j, and the trace left out.

    Axes beyond the spread's rank are zero.
    """
    _, s, v = torch.linalg.svd(path.spread(layer), full_matrices=False)
    s = s.where(s > 1e-6 * s.max(), 0)  # beyond the rank; keys and context weights are float32 numbers
    axis = s[:axes, None] * v[:axes]
    largest = axis.gather(1, axis.abs().argmax(1, keepdim=True))  # a singular vector's sign is arbitrary
    missing = axis.new_zeros(axes - len(axis), v.shape[1])
    return torch.cat([axis * largest.sign(), missing]), float(s[axes:].square().sum())
