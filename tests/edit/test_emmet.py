"""EMMET's constraint and minimum by plain linear algebra, its two special cases, and the whole edit."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.edit import emmet, rome
from fleke_lib.edit.emmet import DAMPING, constrained
from fleke_lib.ridge.solve import ridge
from tests.textbook import memit as textbook
from tests.textbook.reading import averaged_key, context_keys
from tests.textbook.samples import (
    CONTEXTS,
    FACTS,
    HPARAMS,
    STRONG,
    answered,
    plain_moments,
    random_mkvs,
    relative,
    same_weights,
    says,
    weights,
)
from tests.tiny import KINDS, tiny

ONE = replace(HPARAMS, layers=(2,))


def problem(facts: int = 5, d_mlp: int = 12, d_model: int = 4):
    generator = torch.Generator().manual_seed(1)
    keys, residuals, noise = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((facts, d_mlp), (facts, d_model), (3 * d_mlp, d_mlp))
    )
    return keys, residuals, noise.T @ noise / len(noise)


def test_without_damping_it_is_the_least_change_under_the_constraint():
    """The conditions for a minimum of tr(dW C dW^T) / 2 under dW K^T = R^T, as one linear system."""
    keys, residuals, moment = problem()
    n, d = keys.shape
    system = torch.cat(
        [torch.cat([moment, keys.T], 1), torch.cat([keys, torch.zeros(n, n, dtype=torch.float64)], 1)], 0
    )
    right = torch.cat([torch.zeros(d, residuals.shape[1], dtype=torch.float64), residuals])
    wanted = torch.linalg.solve(system, right)[:d].T
    found = constrained(keys, residuals, moment, damping=0.0).dense()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found @ keys.T, residuals.T)


def test_with_damping_it_is_memit_with_another_lambda():
    keys, residuals, moment = problem()
    lam = DAMPING * (keys @ torch.linalg.inv(moment) @ keys.T).diagonal().mean()
    torch.testing.assert_close(
        constrained(keys, residuals, moment).dense(), ridge(keys, residuals, moment, float(lam)).dense()
    )


def test_alike_keys_need_damping():
    keys, residuals, moment = problem()
    twins = torch.cat([keys, keys[:1]]), torch.cat([residuals, residuals[1:2]])
    assert constrained(*twins, moment).is_finite()
    with pytest.raises(ValueError, match="singular"):
        constrained(torch.cat([keys[:1]] * 3), residuals[:3], moment, damping=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_edit_of_one_layer_is_the_textbooks_memit_with_that_lambda(kind):
    lm = tiny(kind)
    moments, mkvs = plain_moments(lm, ONE.layers), random_mkvs(lm, FACTS, lm.layers[2])
    keys = torch.stack([averaged_key(context_keys(lm, fact, CONTEXTS, 2)) for fact in FACTS]).double()
    lam = DAMPING * float((keys @ torch.linalg.inv(moments[2]) @ keys.T).diagonal().mean())
    edit = emmet(lm, FACTS, mkvs, moments, CONTEXTS, ONE)
    zs = [mkv.z for mkv in mkvs]
    wanted = textbook.memit(lm, FACTS, zs, CONTEXTS, replace(ONE, lam=lam), moments)
    assert relative(edit.delta(2), wanted[2]) < 1e-3


def test_one_fact_in_one_layer_is_rome():
    lm = tiny("gptj")
    moments, mkvs = plain_moments(lm, ONE.layers), random_mkvs(lm, FACTS[:1], lm.layers[2])
    one, other = (method(lm, FACTS[:1], mkvs, moments, ("",), ONE) for method in (emmet, rome))
    torch.testing.assert_close(one.delta(2) * (1 + DAMPING), other.delta(2), rtol=1e-4, atol=1e-6)


def test_the_edited_model_says_the_new_targets():
    lm = tiny("llama")
    facts, before = answered(lm), weights(lm)
    edit = emmet(lm, facts, None, plain_moments(lm, STRONG.layers), CONTEXTS, STRONG)
    assert same_weights(lm, before)
    with edit.applied(lm):
        assert all(says(lm, fact) for fact in facts)
