"""The per-example audit, on confidences whose AUC is known: normal, and higher for members by a given shift."""

import numpy as np
import pytest
from scipy.stats import norm

from fleke_lib.beyond.lira import audited, half, shadow_models

EXAMPLES, SHIFT = 200, 1.2


def noisy(seed):
    rng = np.random.default_rng(seed)
    return lambda members: rng.normal(size=EXAMPLES) + SHIFT * members


def leave(rng, members):
    """A quarter of all examples asks to leave."""
    alike = np.zeros(EXAMPLES, bool)
    alike[rng.permutation(EXAMPLES)[:80]] = True
    return members & alike, alike


def test_the_auc_is_that_of_two_normal_distributions_before_and_half_after():
    train = noisy(1)
    attack = shadow_models(train, EXAMPLES, models=200)
    methods = {"before": lambda members, gone: train(members), "after": lambda members, gone: train(members & ~gone)}
    found = audited(methods, dict.fromkeys(methods, attack), leave, victims=60, each=15)
    expected = norm.cdf(SHIFT / np.sqrt(2))
    assert found["before"]["left"].auc == pytest.approx(expected, abs=0.04)
    for name in methods:
        assert found[name]["stayed"].auc == pytest.approx(expected, abs=0.04)
    assert found["after"]["left"].auc == pytest.approx(0.5, abs=0.04)
    assert found["before"]["left"].withdrawn.shape == (60, 15)


def test_shadow_models_are_trained_on_halves_and_fit_who_was_in():
    assert half(np.random.default_rng(0), 9).sum() == 4
    attack = shadow_models(lambda members: members.astype(float), EXAMPLES, models=40)
    assert attack.models == 40
    assert (attack.inside[0] == 1).all() and (attack.outside[0] == 0).all()


def test_too_few_models_or_examples_are_refused():
    with pytest.raises(ValueError, match="3 shadow models"):
        shadow_models(noisy(2), EXAMPLES, models=3)
    attack = shadow_models(noisy(3), EXAMPLES, models=40)
    method = {"before": lambda members, gone: noisy(4)(members)}
    with pytest.raises(ValueError, match="give fewer"):
        audited(method, {"before": attack}, leave, victims=1, each=90)
