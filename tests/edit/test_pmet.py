"""PMET against the textbook: the targets of both modules optimised together, its stopping rule, and the writes."""

from dataclasses import replace

import pytest
import torch

import fleke_lib as fleke
from fleke_lib.edit import pmet
from fleke_lib.mkv.pmet import pmet_mkvs
from tests.edit.test_memit import REAL, REAL_CONTEXTS
from tests.textbook import pmet as textbook
from tests.textbook.reading import context_keys, leaving
from tests.textbook.samples import (
    CONTEXTS,
    FACTS,
    HPARAMS,
    STRONG,
    answered,
    cosine,
    plain_moments,
    random_mkvs,
    relative,
    same_weights,
    says,
    weights,
)
from tests.tiny import KINDS, WILD, tiny

PMET = replace(HPARAMS, kl_factor=1.0, lr=0.2)
THREE = replace(PMET, layers=(0, 1, 2))


@pytest.mark.parametrize("kind", [*KINDS, WILD])
def test_z_is_the_textbooks(kind):
    lm = tiny(kind)
    for fact, mkv in zip(FACTS, pmet_mkvs(lm, FACTS, CONTEXTS, PMET), strict=True):
        _, wanted = textbook.compute_targets(lm, fact, CONTEXTS, PMET)
        assert cosine(mkv.z, wanted) >= 0.999
        assert relative(mkv.h, leaving(lm, lm.projection(PMET.layer), fact)) < 1e-4
        assert relative(mkv.residual, wanted - mkv.h) < 1e-3
        assert all(relative(mkv.keys[layer], context_keys(lm, fact, CONTEXTS, layer)) < 1e-4 for layer in PMET.layers)


def test_the_rule_for_facts_that_are_said_is_the_textbooks(monkeypatch):
    """The likelihood's weight is 0.1 after the target is the argmax everywhere; convergence if the KL term is small."""
    lm = tiny("gpt2")
    hparams = replace(STRONG, kl_factor=1.0, lr=0.2, steps=25, stop=0.0)
    facts = answered(lm)
    targets = [textbook.compute_targets(lm, fact, CONTEXTS, hparams)[1] for fact in facts]
    mkvs = pmet_mkvs(lm, facts, CONTEXTS, hparams)
    for mkv, wanted in zip(mkvs, targets, strict=True):
        assert relative(mkv.residual, wanted - mkv.h) < 1e-3
    monkeypatch.setattr(textbook, "SURE", 1.0)
    without = [textbook.compute_targets(lm, fact, CONTEXTS, hparams)[1] for fact in facts]
    assert any(relative(one, other) > 0.01 for one, other in zip(without, targets, strict=True))


def test_a_said_fact_with_a_small_divergence_has_converged():
    lm = tiny("gpt2")
    hparams = replace(STRONG, kl_factor=0.0, stop=0.0, steps=40)
    facts = answered(lm)
    mkvs = pmet_mkvs(lm, facts, CONTEXTS, hparams)
    assert all(mkv.steps < hparams.steps - 1 for mkv in mkvs)
    for fact, mkv in zip(facts, mkvs, strict=True):
        assert relative(mkv.residual, textbook.compute_targets(lm, fact, CONTEXTS, hparams)[1] - mkv.h) < 1e-3


@pytest.mark.parametrize("kind", [*KINDS, WILD])
def test_each_layers_change_is_the_textbooks_given_the_same_z(kind):
    lm = tiny(kind)
    moments = plain_moments(lm, THREE.layers)
    mkvs = random_mkvs(lm, FACTS, lm.projection(THREE.layer))
    edit = pmet(lm, FACTS, mkvs, moments, CONTEXTS, THREE)
    wanted = textbook.pmet(lm, FACTS, [mkv.z for mkv in mkvs], CONTEXTS, THREE, moments)
    for layer in THREE.layers:
        assert relative(edit.delta(layer), wanted[layer]) < 1e-3


@pytest.mark.parametrize("kind", ["gemma3_text", "gptj", "gpt_neox"])
def test_the_edited_model_says_the_new_targets(kind):
    """If the MLP's delta suffices: the attention's delta is optimised with it, but never written."""
    lm = tiny(kind)
    facts, before, hparams = answered(lm), weights(lm), replace(STRONG, kl_factor=1.0)
    edit = pmet(lm, facts, moments=plain_moments(lm, hparams.layers), contexts=("",), hparams=hparams)
    assert same_weights(lm, before)
    assert not any(says(lm, fact) for fact in facts)
    with edit.applied(lm):
        assert all(says(lm, fact) for fact in facts)
    assert same_weights(lm, before)


@pytest.mark.model
def test_on_the_default_model(lm):
    hparams = replace(lm.preset.pmet, steps=12)
    mkvs = pmet_mkvs(lm, REAL, REAL_CONTEXTS, hparams)
    _, wanted = textbook.compute_targets(lm, REAL[0], REAL_CONTEXTS, hparams)
    assert cosine(mkvs[0].z, wanted) >= 0.999
    moments = fleke.second_moments(lm)
    edit = pmet(lm, REAL, mkvs, moments, REAL_CONTEXTS, hparams)
    changes = textbook.pmet(lm, REAL, [mkv.z for mkv in mkvs], REAL_CONTEXTS, hparams, moments)
    assert all(relative(edit.delta(layer), changes[layer]) < 1e-3 for layer in hparams.layers)
    base = {layer: lm.weight(layer).clone() for layer in hparams.layers}
    edit.apply(lm).remove()
    assert all(torch.equal(lm.weight(layer), weight) for layer, weight in base.items())
