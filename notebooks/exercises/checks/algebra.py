"""Random problems, and regressions solved without normal equations."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_shift = 0  # added to every seed


@contextmanager
def other_numbers(seed: int) -> Iterator[None]:
    """In a `with` block all problems are drawn anew: a hand-in is graded on numbers that its check did not show."""
    global _shift
    before, _shift = _shift, 1000 * seed
    try:
        yield
    finally:
        _shift = before


def normal(*shape: int, seed: int) -> Float[Tensor, "*shape"]:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + _shift), dtype=torch.float64)


def dice(seed: int) -> random.Random:
    """Python's random numbers."""
    return random.Random(seed + _shift)


def moment(d_mlp: int, seed: int) -> Float[Tensor, "d_mlp d_mlp"]:
    """A second moment of keys that use some directions far more than others, as the keys of text do."""
    keys = normal(4 * d_mlp, d_mlp, seed=seed) * torch.logspace(0.5, -0.5, d_mlp, dtype=torch.float64)
    return keys.T @ keys / len(keys)


def least_squares(
    rows: Float[Tensor, "rows d_mlp"],
    wanted: Float[Tensor, "rows d_model"],
    C: Float[Tensor, "d_mlp d_mlp"],
    lam: float,
) -> Float[Tensor, "d_model d_mlp"]:
    """The dW that minimises `|rows dW^T - wanted|^2 + lam tr(dW C dW^T)`; the second term becomes additional rows.

    Solved by numpy's `lstsq`, a singular value decomposition: no normal equations, no inverse.
    """
    root = np.sqrt(lam) * np.linalg.cholesky(C.numpy()).T
    left = np.vstack([rows.numpy(), root])
    right = np.vstack([wanted.numpy(), np.zeros((len(root), wanted.shape[1]))])
    return torch.from_numpy(np.linalg.lstsq(left, right, rcond=None)[0].T)
