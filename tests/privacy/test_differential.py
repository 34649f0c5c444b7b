"""Sums with noise: the accountant against formulas and another accountant, the sensitivity by search and by example."""

from dataclasses import dataclass, field, replace
from math import exp, inf, sqrt

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent, pld
from scipy.optimize import brentq
from scipy.stats import norm

from fleke_lib.edit.closed_form import from_sums
from fleke_lib.privacy import differential
from fleke_lib.privacy.differential import Bounds, clipped, epsilon_of, multiplier_for, released, unwhitened, whitening
from fleke_lib.ridge.sums import Sums, sums
from tests.privacy.attacks.cases import LAYERS, published

WIDTH, OUT = 12, 7


@dataclass(frozen=True)
class OneFact:
    """A fact of one layer, 0, with vectors of one's choice."""

    key: torch.Tensor
    others: torch.Tensor
    residual: torch.Tensor
    tau: float = 0.0
    bases: dict = field(default_factory=dict)
    fingerprint: str = "a model"

    @property
    def shares(self):
        return {0: self.residual}

    @property
    def left(self):
        return {0: self.tau}

    def mean(self, layer):
        return self.key

    def spread(self, layer):
        return self.others


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(seed: int = 0) -> torch.Tensor:
    turn = torch.linalg.qr(draw(WIDTH, WIDTH, seed=seed))[0]
    return (turn * torch.logspace(-2, 1, WIDTH, dtype=torch.float64)) @ turn.T


def fact(seed: int, size: float = 1.0, tau: float = 0.0) -> OneFact:
    return OneFact(size * draw(WIDTH, seed=seed), size * draw(3, WIDTH, seed=seed + 1), draw(OUT, seed=seed + 2), tau)


def change(with_it: Sums, without: Sums) -> tuple[float, float]:
    return float((with_it.S - without.S).norm()), float((with_it.T - without.T).norm())


def analytic_delta(sigma: float, epsilon: float) -> float:
    """Theorem 8 of Balle and Wang 2018, for sensitivity 1."""
    first = norm.logcdf(1 / (2 * sigma) - epsilon * sigma)
    return exp(first) - exp(epsilon + norm.logcdf(-1 / (2 * sigma) - epsilon * sigma))


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 2.5])
@pytest.mark.parametrize("delta", [1e-3, 1e-5])
def test_epsilon_of_one_release_is_that_of_the_analytic_formula(sigma, delta):
    found = epsilon_of(sigma, layers=1, delta=delta)
    assert analytic_delta(sigma, found) == pytest.approx(delta, rel=1e-6)
    expected = brentq(lambda epsilon: analytic_delta(sigma, epsilon) - delta, 0, 30, xtol=1e-10)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("multiplier", [1.5, 4.0])
def test_several_layers_compose_as_in_an_accountant_of_loss_distributions(multiplier):
    accountant = pld.PLDAccountant()
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(multiplier), 6))
    assert epsilon_of(multiplier, layers=6) == pytest.approx(accountant.get_epsilon(differential.DELTA), rel=2e-3)


def test_the_multiplier_gives_the_wanted_epsilon_and_copies_are_a_group():
    for epsilon in (0.5, 8.0, 1e4):
        assert epsilon_of(multiplier_for(epsilon, 6), 6) == pytest.approx(epsilon, rel=1e-6)
    assert multiplier_for(inf, 6) == 0
    assert epsilon_of(0.0, 6) == inf
    assert epsilon_of(6.0, 6, copies=3) == pytest.approx(epsilon_of(2.0, 6))


def test_no_fact_changes_the_sums_by_more_than_the_bounds():
    R, bounds = whitening(moment()), Bounds(3.0, 5.0)
    others = [fact(1), fact(5)]
    without = clipped(others, 0, R, bounds)
    largest = 0.0
    for seed in range(10, 400):
        size = 10.0 ** ((seed % 9) / 2 - 2)
        one = fact(seed, size, tau=(seed % 3) * size)
        on_S, on_T = change(clipped([*others, one], 0, R, bounds), without)
        largest = max(largest, on_S / bounds.a, on_T / bounds.b)
    assert largest == pytest.approx(1.0)  # attained by some, and exceeded by none


def test_a_fact_without_spread_whose_sizes_match_attains_both_bounds_at_once():
    R = whitening(moment())
    x = torch.zeros(WIDTH, dtype=torch.float64)
    x[3] = 20.0
    r = torch.zeros(OUT, dtype=torch.float64)
    r[0] = 20.0 * 5 / 3
    one = OneFact(R @ x, torch.zeros(0, WIDTH, dtype=torch.float64), r)
    nothing = replace(one, key=torch.zeros(WIDTH, dtype=torch.float64))
    alone, zero = clipped([one], 0, R, Bounds(3.0, 5.0)), clipped([nothing], 0, R, Bounds(3.0, 5.0))
    assert change(alone, zero) == pytest.approx((3.0, 5.0))


def test_norms_are_those_of_the_fact_s_own_matrices():
    C = moment(3)
    R, one = whitening(C), fact(20, tau=2.0)
    inverse = np.linalg.inv(R.numpy())
    X = np.concatenate([one.key.numpy()[None], one.others.numpy()]) @ inverse.T
    A = X.T @ X + 2.0 / np.trace((R @ R.T).numpy()) * np.eye(WIDTH)
    B = np.outer(one.residual.numpy(), X[0])
    assert differential.norms(one, 0, R) == pytest.approx((np.linalg.norm(A), np.linalg.norm(B)))
    wide = clipped([one], 0, R, Bounds(1e9, 1e9))
    assert np.allclose(wide.S.numpy(), A)
    assert np.allclose(wide.T.numpy(), B)
    halved = clipped([one], 0, R, Bounds(np.linalg.norm(A) / 2, 1e9))
    assert np.allclose(halved.S.numpy(), A / 2)
    assert np.allclose(halved.T.numpy(), B / 2)


def test_noise_has_the_stated_size_and_is_the_same_in_every_direction_of_the_space():
    generator, width = torch.Generator().manual_seed(0), 40
    drawn = torch.stack([differential.symmetric_noise(width, generator) for _ in range(400)])
    assert torch.equal(drawn, drawn.mT)
    diagonal = drawn.diagonal(dim1=1, dim2=2)
    above = drawn[:, *torch.triu_indices(width, width, 1)]
    assert float(diagonal.var()) == pytest.approx(1.0, rel=0.05)
    assert float(above.var()) == pytest.approx(0.5, rel=0.02)
    some = draw(width, width, seed=1)
    direction = (some + some.T) / (some + some.T).norm()
    assert float((drawn * direction).sum((1, 2)).std()) == pytest.approx(1.0, rel=0.1)
    big, bounds = Sums(1e6 * torch.eye(200, dtype=torch.float64), torch.zeros(150, 200).double()), Bounds(2.0, 5.0)
    noisy = released(big, bounds, 0.7, seed=3, part=0.2)
    assert float((noisy.S - big.S).diagonal().std()) == pytest.approx(2.0 * 0.7 / sqrt(0.2), rel=0.15)
    assert float(noisy.T.std()) == pytest.approx(5.0 * 0.7 / sqrt(0.8), rel=0.02)
    assert not torch.equal(noisy.T, released(big, bounds, 0.7, seed=4, part=0.2).T)
    assert torch.equal(noisy.T, released(big, bounds, 0.7, seed=3, part=0.2).T)


def test_the_two_parts_share_one_budget():
    bounds = Bounds(3.0, 5.0)
    for part in (0.1, 0.5, 0.9):
        on_S, on_T = bounds.deviations(2.0, part)
        assert (bounds.a / on_S) ** 2 + (bounds.b / on_T) ** 2 == pytest.approx(1 / 2.0**2)
    assert bounds.deviations(2.0, 0) == (inf, 10.0)


def test_a_noisy_S_is_positive_semidefinite_and_the_nearest_such_matrix():
    S = fact(4).others.T @ fact(4).others
    noisy = S + 5 * differential.symmetric_noise(WIDTH, torch.Generator().manual_seed(1))
    assert float(torch.linalg.eigvalsh(noisy).min()) < -1
    mended = differential.positive(noisy)
    assert float(torch.linalg.eigvalsh(mended).min()) > -1e-9
    values = np.linalg.eigvalsh(noisy.numpy())
    assert float((mended - noisy).norm()) == pytest.approx(float(np.linalg.norm(values[values < 0])))
    assert torch.allclose(differential.positive(S), S)
    total = Sums(S, torch.zeros(OUT, WIDTH).double())
    assert float(torch.linalg.eigvalsh(released(total, Bounds(1, 1), 4.0, 0).S).min()) > -1e-9
    assert not released(total, Bounds(1, 1), 4.0, 0, part=0).S.any()


def test_without_noise_and_with_wide_bounds_the_edit_is_that_of_the_plain_sums():
    _, _, paths, _, packets = published()
    C = {layer: torch.diag(torch.linspace(0.5, 2, 64)).double() for layer in LAYERS}
    wide, z = Bounds(1e12, 1e12), multiplier_for(inf, len(LAYERS))
    for contributions, tolerance in ((paths, 1e-9), (packets, 2e-3)):  # tau C is taken as tau I for packets
        found = {}
        for layer in LAYERS:
            R = whitening(C[layer])
            found[layer] = unwhitened(released(clipped(contributions, layer, R, wide), wide, z, seed=0), R)
        plain = from_sums({layer: sums(contributions, layer) for layer in LAYERS}, C, "a model")
        edit = from_sums(found, C, "a model")
        for layer in LAYERS:
            expected = plain.changes[layer].dense()
            assert float((edit.changes[layer].dense() - expected).norm() / expected.norm()) < tolerance


def test_without_noise_the_edit_is_the_clipped_one():
    facts, R = [fact(1), fact(5, size=30.0)], whitening(moment())
    bounds = Bounds(*differential.norms(facts[0], 0, R))
    total = clipped(facts, 0, R, bounds)
    A, B = differential.norms(facts[1], 0, R)
    w = min(bounds.a / A, bounds.b / B)
    assert w < 0.01
    plain = sums(facts[:1], 0) + Sums(*(w * part for part in (sums(facts[1:], 0).S, sums(facts[1:], 0).T)))
    solved = unwhitened(released(total, bounds, 0.0, seed=9), R).solve(moment(), 2.0)
    assert torch.allclose(solved, plain.solve(moment(), 2.0), atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bounds(0.0, 1.0), "bounds are 0.0 and 1.0"),
        (lambda: Bounds(1.0, inf), "two positive numbers"),
        (lambda: Bounds(1.0, 1.0).deviations(-1.0), "multiplier -1.0"),
        (lambda: Bounds(1.0, 1.0).deviations(1.0, 1.0), "part 1.0"),
        (lambda: multiplier_for(0.0, 6), "epsilon is 0.0"),
        (lambda: multiplier_for(1.0, 0), "0 layers"),
        (lambda: epsilon_of(1.0, 6, delta=0.0), "delta 0.0"),
        (lambda: epsilon_of(1.0, 6, copies=0), "copies 0"),
        (lambda: epsilon_of(-1.0, 6), "multiplier -1.0"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
