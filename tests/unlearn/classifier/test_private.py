"""Private training: sensitivity, noise, and the accountant against the Gaussian mechanism's closed form."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fleke_lib.unlearn.classifier import methods as classifier
from fleke_lib.unlearn.classifier.hospitals import (
    Exact,
    FedAvg,
    UnlearningRequest,
    breast_cancer,
    gradient,
    some_patients,
)
from fleke_lib.unlearn.classifier.private import DELTA, Private, auc_bound, clipped, epsilon, noise_for

STUDY = breast_cancer(seed=0)
N = sum(map(len, STUDY.hospitals))


def exact_epsilon(mu: float, delta: float) -> float:
    """The Gaussian mechanism's own trade-off (Balle and Wang 2018).

    delta = Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu)
    """

    def excess(e):
        return norm.cdf(mu / 2 - e / mu) - np.exp(e + norm.logcdf(-mu / 2 - e / mu)) - delta

    return brentq(excess, 0, 200)


def renyi_epsilon(mu: float, delta: float) -> float:
    """The least over orders a of a mu^2/2 + log((a-1)/a) - log(delta a)/(a-1) (Canonne, Kamath and Steinke 2020)."""
    a = np.linspace(1.01, 200, 200_000)
    return float((a * mu**2 / 2 + np.log((a - 1) / a) - np.log(delta * a) / (a - 1)).min())


@pytest.mark.parametrize("noise, rounds", [(2.0, 1), (15.0, 30), (5.0, 30), (30.0, 100)])
def test_the_accountant_against_closed_forms(noise, rounds):
    mu = np.sqrt(rounds) / noise
    assert epsilon(noise, rounds) == pytest.approx(renyi_epsilon(mu, DELTA), rel=0.01)
    assert exact_epsilon(mu, DELTA) <= epsilon(noise, rounds) <= 1.2 * exact_epsilon(mu, DELTA)  # Renyi's slack
    assert epsilon(noise, rounds) == pytest.approx(epsilon(2 * noise, 4 * rounds), rel=1e-6)  # one mu


def test_a_group_has_its_size_times_the_sensitivity():
    assert epsilon(20.0, 30, patients=4) == pytest.approx(epsilon(5.0, 30))
    assert epsilon(20.0, 30, patients=20) > 20 * epsilon(20.0, 30)
    assert epsilon(0.0, 30) == np.inf


@pytest.mark.parametrize("wanted", [0.5, 1, 8])
def test_the_noise_for_an_epsilon(wanted):
    noise = noise_for(wanted, 30)
    assert 0.99 * wanted <= epsilon(noise, 30) <= wanted < epsilon(0.98 * noise, 30)


def test_no_attack_beats_the_bound():
    """The best attack on two normal distributions mu apart, by drawing from them."""
    rng, mu = np.random.default_rng(0), np.sqrt(30) / 5
    inside, outside = rng.normal(mu, 1, 20_000), rng.normal(0, 1, 20_000)
    assert np.mean(inside > outside) == pytest.approx(auc_bound(5.0, 30), abs=0.01)
    assert auc_bound(1e9, 30) == pytest.approx(0.5)
    assert auc_bound(5.0, 30, patients=2) == auc_bound(2.5, 30)


def test_gradients_are_clipped_one_by_one():
    hospital, weights = STUDY.hospitals[3], np.random.default_rng(0).normal(size=31)
    whole = clipped(hospital, weights, 1e9)
    np.testing.assert_allclose(whole.mean(0), gradient(hospital, weights, 0.0))
    short = clipped(hospital, weights, 0.7)
    lengths = np.linalg.norm(whole, axis=1)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), np.minimum(lengths, 0.7))
    np.testing.assert_allclose(short * lengths[:, None], whole * np.linalg.norm(short, axis=1)[:, None], atol=1e-12)


def test_without_noise_and_clip_it_is_fedavg():
    private = Private(N, noise=0.0, clip=1e9, rounds=40, rate=0.3).train(STUDY.hospitals)
    np.testing.assert_allclose(private.weights, FedAvg(rounds=40, rate=0.3).train(STUDY.hospitals).weights, atol=1e-12)


def test_one_round_moves_by_the_sensitivity_at_most_and_its_noise_is_that_of_the_sum():
    recipe = Private(N, noise=0.0, clip=0.5, rounds=1, rate=1.0)
    everybody = recipe.train(STUDY.hospitals).weights
    for row in range(5):
        fewer = (STUDY.hospitals[0].without([row]), *STUDY.hospitals[1:])
        assert np.linalg.norm(recipe.train(fewer).weights - everybody) <= 0.5 / N + 1e-12
    noisy = replace(recipe, noise=3.0)
    drawn = [noisy.train(STUDY.hospitals, seed).weights - everybody for seed in range(200)]
    assert np.std(drawn) == pytest.approx(3.0 * 0.5 / N, rel=0.05)


def test_the_same_seed_is_the_same_noise_and_retraining_draws_another():
    recipe = Private(N, noise=5.0)
    model = recipe.train(STUDY.hospitals, seed=3)
    np.testing.assert_array_equal(model.weights, recipe.train(STUDY.hospitals, seed=3).weights)
    nobody = UnlearningRequest("nobody", ((),) * 5)
    assert np.linalg.norm(classifier.retrain(model, nobody).weights - model.weights) > 0.01


def test_a_newton_step_takes_the_protecting_noise_away():
    request = some_patients(STUDY.hospitals, 1)
    model = Private(N, noise_for(1.0, 30)).train(STUDY.hospitals)
    optimum = Exact().train(request.remaining(STUDY.hospitals)).weights
    after = classifier.newton(model, request).weights
    assert np.linalg.norm(after - optimum) < 0.5 * np.linalg.norm(model.weights - optimum)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="one or more rounds"):
        epsilon(1.0, 0)
    with pytest.raises(ValueError, match="give a number over 0"):
        noise_for(0.0, 30)
