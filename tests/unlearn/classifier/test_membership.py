"""The membership attack: on a case whose AUC is known, and on hospitals before and after a withdrawal."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from fleke_lib.unlearn.classifier import methods as classifier
from fleke_lib.unlearn.classifier.hospitals import Exact, Trained, deal
from fleke_lib.unlearn.classifier.membership import (
    attack_after,
    auc_over_victims,
    confidence,
    population,
    shadows,
    some,
    whole,
)

EVERYBODY = population()
METHODS = {"nothing": classifier.nothing, "newton": classifier.newton, "retrain": classifier.retrain}
NOTHING = {"nothing": classifier.nothing}
VICTIMS = 100


class Shifted:
    """A training whose confidence in each patient is normal, and higher by `shift` for those it was trained on.

    Patients are unit vectors, so that weight j is the confidence in patient j.
    """

    lam, rounds = 0.0, 0
    shift = 1.5

    def train(self, hospitals, seed=0):
        weights = np.random.default_rng(seed).normal(size=hospitals[0].features.shape[1])
        weights += self.shift * sum(place.features.sum(0) for place in hospitals)
        return Trained(weights, tuple(hospitals), self, np.zeros((0, len(hospitals), len(weights))))


def units(count: int = 60):
    features = np.eye(count)
    return type(EVERYBODY)("units", features, np.ones(count))


def test_the_attack_on_normal_confidences_reaches_the_auc_that_they_allow():
    """N(1.5, 1) against N(0, 1): no attack is better than Phi(1.5 / sqrt 2), and this one is as good."""
    everybody = units()
    attack = shadows(everybody, Shifted(), models=2000)
    np.testing.assert_allclose(attack.inside[0] - attack.outside[0], 1.5, atol=0.2)
    np.testing.assert_allclose([attack.inside[1], attack.outside[1]], 1, atol=0.1)
    found = attack_after(everybody, Shifted(), some(1), NOTHING, attack, victims=300, groups=10)["nothing"]
    wanted = norm.cdf(1.5 / np.sqrt(2))
    assert found.auc == pytest.approx(wanted, abs=0.02)
    assert found.interval[0] < wanted < found.interval[1] and not found.at_chance
    pairs = attack_after(everybody, Shifted(), some(4), NOTHING, attack, victims=400)["nothing"]
    assert pairs.auc == pytest.approx(norm.cdf(3 / np.sqrt(2)), abs=0.02)  # four scores add up: twice as far apart


def test_scores_are_the_log_of_the_densities_ratio():
    attack = shadows(EVERYBODY, Exact(), models=40)
    values = (attack.inside[0] + attack.outside[0]) / 2 + 0.3 * attack.outside[1]
    ratios = norm(*attack.inside).pdf(values) / norm(*attack.outside).pdf(values)
    np.testing.assert_allclose(np.exp(attack.scores(values)), ratios, rtol=1e-9)
    p = 1 / (1 + np.exp(-EVERYBODY.features @ np.full(31, 0.1)))
    right = np.where(EVERYBODY.labels == 1, p, 1 - p)
    np.testing.assert_allclose(confidence(np.full(31, 0.1), EVERYBODY), np.log(right / (1 - right)), atol=1e-9)


def test_auc_and_interval_against_scikit_learn_and_theory():
    rng = np.random.default_rng(0)
    withdrawn, never = rng.normal(0.5, 1, (150, 2)).round(1), rng.normal(0, 1, (150, 2)).round(1)  # with ties
    found = auc_over_victims(withdrawn, never)
    labels = np.repeat([1, 0], 300)
    assert found.auc == pytest.approx(roc_auc_score(labels, np.concatenate([withdrawn.ravel(), never.ravel()])))
    same = [auc_over_victims(*np.random.default_rng(seed).normal(size=(2, 100, 1))) for seed in range(200)]
    assert 0.9 <= np.mean([contains_chance(case) for case in same]) <= 0.99


def contains_chance(audit):
    return audit.interval[0] <= 0.5 <= audit.interval[1]


def attacked(auc, victims, seed, draws=200):
    """Scores of an attack that has this AUC."""
    withdrawn, never = np.random.default_rng(seed).normal(size=(2, victims, 1))
    return auc_over_victims(withdrawn + norm.ppf(auc) * np.sqrt(2), never, draws)


def test_fewer_victims_make_it_harder_to_be_at_chance():
    """A real signal passes at no number of victims more often than the test's error; chance passes with many."""
    few, many = (1, 2, 3, 5, 10, 20, 50, 150), 2000
    for auc in (0.44, 0.56):
        assert not attacked(auc, many, 0).at_chance
        assert all(sum(attacked(auc, n, seed).at_chance for seed in range(40)) <= 2 for n in few)
    contained = [contains_chance(attacked(0.56, 20, seed)) for seed in range(40)]
    assert np.mean(contained) > 0.8, "an interval that contains 0.5 is what few victims give"
    at_chance = [np.mean([attacked(0.5, n, seed).at_chance for seed in range(10)]) for n in (20, 150, 400, many)]
    assert at_chance == sorted(at_chance) and at_chance[0] == 0 and at_chance[-1] >= 0.9
    for auc in (0.5, 0.52, 0.6):  # the same victims several times over
        scores = attacked(auc, 25, 1)
        again = [
            auc_over_victims(np.tile(scores.withdrawn, (n, 1)), np.tile(scores.never, (n, 1)), 200).at_chance
            for n in (1, 4, 16, 40)
        ]
        assert again == sorted(again)
    ties = np.zeros((2, 1))
    assert auc_over_victims(ties, ties).interval == (0.5, 0.5) and not auc_over_victims(ties, ties).at_chance


@pytest.fixture(scope="module")
def attack():
    return shadows(EVERYBODY, Exact(), models=128)


@pytest.mark.parametrize("choice", [some(20), whole("B")], ids=["20 patients", "a hospital"])
def test_the_signal_is_clear_before_and_gone_after(attack, choice):
    found = attack_after(EVERYBODY, Exact(), choice, METHODS, attack, victims=VICTIMS)
    assert found["nothing"].interval[0] > 0.6
    assert contains_chance(found["newton"]) and contains_chance(found["retrain"])
    assert found["newton"].auc == pytest.approx(found["retrain"].auc, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("choice", "victims", "groups"), [(some(20), 400, 6), (whole("B"), 1000, 1)])
def test_many_victims_show_that_the_attack_is_at_chance(attack, choice, victims, groups):
    two = {name: METHODS[name] for name in ("nothing", "newton")}
    found = attack_after(EVERYBODY, Exact(), choice, two, attack, victims, groups)
    assert found["newton"].at_chance and not found["nothing"].at_chance


@pytest.mark.slow
def test_one_patient_is_a_faint_signal_that_many_withdrawals_show(attack):
    two = {name: METHODS[name] for name in ("nothing", "newton")}
    found = attack_after(EVERYBODY, Exact(), some(1), two, attack, victims=200, groups=10)
    assert found["nothing"].interval[0] > 0.5 and not found["nothing"].at_chance
    assert found["newton"].at_chance


def test_the_same_seed_is_the_same_audit(attack):
    one, again, other = (
        attack_after(EVERYBODY, Exact(), some(5), NOTHING, attack, victims=5, seed=seed)["nothing"]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.withdrawn, again.withdrawn)
    assert one.interval == again.interval and not np.array_equal(one.withdrawn, other.withdrawn)


def test_scores_belong_to_those_who_left_and_to_those_who_were_never_there():
    """Confidence is 1 for the trained and 0 for all others, without any noise; withdrawal here moves nothing."""

    class Sure(Shifted):
        def train(self, hospitals, seed=0):
            return Trained(pool_of(hospitals), tuple(hospitals), self, np.zeros((0, len(hospitals), 60)))

    def pool_of(hospitals):
        return sum(place.features.sum(0) for place in hospitals)

    attack = shadows(units(), Shifted(), models=200)
    for choice in (some(3), whole("D")):
        found = attack_after(units(), Sure(), choice, NOTHING, attack, victims=4)["nothing"]
        size = 3 if choice(deal(units(30)), 0).name == "3 patients" else len(deal(units(30))[3])
        ones, zeros = (attack.scores(np.full(60, value)) for value in (1.0, 0.0))
        assert (found.withdrawn >= np.sort(ones)[:size].sum() - 1e-9).all()
        assert (found.never <= np.sort(zeros)[-size:].sum() + 1e-9).all()
        assert found.auc == 1


def test_too_few_shadow_models():
    with pytest.raises(ValueError, match="give 32 or more"):
        shadows(EVERYBODY, Exact(), models=3)
