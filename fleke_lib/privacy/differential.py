"""Differential privacy for the sums S and T: what it costs an edit of facts that only one client knows.

The unit is **one fact**, as one client contributes it. Two federations are adjacent if one has this fact in addition
(add or remove). A fact that m clients contribute is a group of m: its sensitivity is m times as great.

Sums are taken in coordinates in which an ordinary key has variance 1 in each direction: x = R^-1 k with C = R R^T. C is
public. Noise of equal size in all of these directions is then the same for every ordinary key. A fact adds

    A_i = X_i^T X_i + (tau_i / tr C) I     to S, where the rows X_i are its mean key x_i and its spread
    B_i = r_i x_i^T                        to T

and is clipped by a weight w_i <= 1 on both parts, the greatest with which |w_i A_i| <= a and |w_i B_i| <= b (Frobenius
norms). A weight keeps what the fact asks for, dW k = r; shorter keys would ask for another r. One fact thus changes
(S / a, T / b) by at most 1 in each part, and the Gaussian mechanism adds

    S + a z / sqrt(g) N_S,   T + b z / sqrt(1 - g) N_T      g: the part of the budget that S gets

N_S is symmetric, with variance 1 on its diagonal and 1/2 elsewhere: a Gaussian in the space of symmetric matrices with
the Frobenius norm. Both releases together are one Gaussian mechanism of noise multiplier z, and those of all L layers
together one of z / sqrt(L), exactly. `dp_accounting` converts this into epsilon at a given delta (Balle and Wang 2018,
arXiv 1805.06530). The edit is computed from what was released, so it costs nothing more. The noisy S has negative
eigenvalues; `positive` removes them. With g = 0, S is not released, and the S of public facts of the same kind stands
in for it.

The bounds a and b, g and lambda must not depend on the facts that are protected: take them from facts of one's own.
Released once, coupling 0: with coupling the keys of a layer follow from the layers below, and clipping would have to be
done anew at each layer. A withdrawal releases a second total, which costs a second epsilon.

Measured on 480 atlas facts and six layers, with lambda chosen in favour of the defence (`benchmarks/private_sums.py`):
score and top-1 are 0.92 and 0.94 without noise, 0.83 and 0.85 at epsilon 100,000, 0.59 and 0.52 at 10,000, where T and
S still give 0.92 and 0.93 of the subjects. At epsilon 10 no fact is written, and subjects are found at the rate of
chance. More facts do not help: noise and a fact's own signal stay as they are. Only copies do. At epsilon 8 and delta
1e-5, z is 1.47 instead of 0.0055, so each fact is written as at 100,000 if 266 clients contribute it.

Each of m clients adds 1 / sqrt(m) of the noise to its own sums, before they are rounded and masked. Clients that drop
out or collude with the server take their part of the noise with them.

Noise here is drawn from a seed, to repeat measurements. A real release draws it from the operating system's generator,
and not in floating point, whose gaps betray the exact sum (Mironov 2012, doi 10.1145/2382196.2382264).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.privacy.attacks.updates import floored, whitened
from fleke_lib.ridge.solve import spd_factor
from fleke_lib.ridge.sums import Contribution, Sums, recorded, rows

DELTA = 1e-5


@dataclass(frozen=True)
class Bounds:
    """What one fact may add to a layer's sums at most. a: Frobenius norm of its part of S. b: of its part of T.

    Raises:
        ValueError: a bound is not a positive number.
    """

    a: float
    b: float

    def __post_init__(self) -> None:
        if not (0 < self.a < inf and 0 < self.b < inf):
            raise ValueError(f"the bounds are {self.a} and {self.b}: give two positive numbers.")

    def deviations(self, multiplier: float, part: float = 0.5) -> tuple[float, float]:
        """The standard deviations of the noise on S and on T. part: g, from 0 to less than 1; with 0, inf for S.

        Raises:
            ValueError: a negative multiplier, or `part` is out of its range.
        """
        if not multiplier >= 0 or not 0 <= part < 1:
            raise ValueError(f"multiplier {multiplier}, part {part}: give 0 or more, and from 0 to less than 1.")
        on_S = self.a * multiplier / sqrt(part) if part else inf
        return on_S, self.b * multiplier / sqrt(1 - part)


def whitening(moment: Float[Tensor, "d_mlp d_mlp"]) -> Float[Tensor, "d_mlp d_mlp"]:
    """R, the lower Cholesky factor of C with a floor under its eigenvalues."""
    return spd_factor(floored(moment))


def norms(contribution: Contribution, layer: int, R: Float[Tensor, "d_mlp d_mlp"]) -> tuple[float, float]:
    """|A_i| and |B_i| of one fact at one layer."""
    return _norms(contribution, layer, whitened(rows(contribution, layer), R), R)


def clipped(contributions: Sequence[Contribution], layer: int, R: Float[Tensor, "d_mlp d_mlp"], bounds: Bounds) -> Sums:
    """S and T of one layer in whitened coordinates, each fact clipped. What S leaves out is in S already."""
    X, w = [whitened(rows(one, layer), R) for one in contributions], []
    for one, own in zip(contributions, X, strict=True):
        A, B = _norms(one, layer, own, R)
        w.append(min(1.0, bounds.a / A if A else 1.0, bounds.b / B if B else 1.0))
    every = torch.cat([weight**0.5 * own for weight, own in zip(w, X, strict=True)])
    S = every.T @ every
    S.diagonal().add_(sum(weight * _rest(one, layer, R) for weight, one in zip(w, contributions, strict=True)))
    means = torch.stack([weight * own[0] for weight, own in zip(w, X, strict=True)])
    return Sums(S, recorded(contributions, layer).T @ means)


def released(total: Sums, bounds: Bounds, multiplier: float, seed: int, part: float = 0.5) -> Sums:
    """The clipped sums with noise; S is zero if it gets no part of the budget, and otherwise positive semidefinite.

    Raises:
        ValueError: as for `Bounds.deviations`.
    """
    on_S, on_T = bounds.deviations(multiplier, part)
    generator = torch.Generator().manual_seed(seed)
    T = total.T + on_T * torch.randn(total.T.shape, generator=generator, dtype=torch.float64)
    if on_S == inf:
        return Sums(torch.zeros_like(total.S), T)
    if on_S == 0:
        return Sums(total.S, T)
    return Sums(positive(total.S + on_S * symmetric_noise(len(total.S), generator)), T)


def symmetric_noise(width: int, generator: torch.Generator) -> Float[Tensor, "width width"]:
    """N_S: symmetric, variance 1 on the diagonal and 1/2 elsewhere."""
    G = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return (G + G.T) / 2


def positive(S: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The nearest positive semidefinite matrix in the Frobenius norm: negative eigenvalues become 0."""
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.clamp_min(0)) @ vectors.T


def unwhitened(total: Sums, R: Float[Tensor, "d_mlp d_mlp"]) -> Sums:
    """The sums in the coordinates of the keys, as `closed_form.from_sums` solves them."""
    return Sums(R @ total.S @ R.T, total.T @ R.T)


def multiplier_for(epsilon: float, layers: int, delta: float = DELTA) -> float:
    """z for which the sums of all layers together are (epsilon, delta)-differentially private; 0 for infinity.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(epsilon > 0, f"epsilon is {epsilon}: give a number over 0.", layers, delta)
    from dp_accounting import get_sigma_gaussian

    return sqrt(layers) * float(get_sigma_gaussian(epsilon, delta))


def epsilon_of(multiplier: float, layers: int, delta: float = DELTA, copies: int = 1) -> float:
    """Epsilon of the sums of all layers together, for a fact that `copies` clients contribute.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(multiplier >= 0 and copies >= 1, f"multiplier {multiplier}, copies {copies}: too small.", layers, delta)
    from dp_accounting import get_epsilon_gaussian

    return float(get_epsilon_gaussian(multiplier / sqrt(layers) / copies, delta))


def _norms(contribution: Contribution, layer: int, X: Tensor, R: Tensor) -> tuple[float, float]:
    inner, t = X @ X.T, _rest(contribution, layer, R)
    square = inner.square().sum() + 2 * t * inner.trace() + t**2 * len(R)
    return float(square.sqrt()), float(contribution.shares[layer].double().norm() * X[0].norm())


def _rest(contribution: Contribution, layer: int, R: Tensor) -> float:
    return contribution.left.get(layer, 0.0) / float(R.square().sum())  # |R|^2 = tr C


def _check(fine: bool, message: str, layers: int, delta: float) -> None:
    if not fine:
        raise ValueError(message)
    if layers < 1 or not 0 < delta < 1:
        raise ValueError(f"{layers} layers, delta {delta}: give one layer or more, and delta between 0 and 1.")
