"""MEMIT against the textbook: the writes given the same z, the keys at every layer, and the edited model's answers."""

from dataclasses import replace

import pytest
import torch

import fleke_lib as fleke
from fleke_lib.edit import memit, readings
from fleke_lib.edit.readings import read
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import same_key
from fleke_lib.mkv.mkv import compute_mkvs
from tests.textbook import memit as textbook
from tests.textbook.reading import averaged_key, context_keys, leaving, locate
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
from tests.tiny import KINDS, WILD, tiny

MODELS = (*KINDS, WILD)
THREE = replace(HPARAMS, layers=(0, 1, 2))


@pytest.mark.parametrize("kind", MODELS)
def test_each_layers_change_is_the_textbooks_given_the_same_z(kind):
    lm = tiny(kind)
    moments = plain_moments(lm, THREE.layers)
    mkvs = random_mkvs(lm, FACTS, lm.layers[THREE.layer])
    edit = memit(lm, FACTS, mkvs, moments, CONTEXTS, THREE)
    wanted = textbook.memit(lm, FACTS, [mkv.z for mkv in mkvs], CONTEXTS, THREE, moments)
    assert edit.layers == THREE.layers
    for layer in THREE.layers:
        assert edit.changes[layer].rank == len(FACTS)
        assert relative(edit.delta(layer), wanted[layer]) < 1e-3


def test_layers_may_have_others_between_them_and_end_at_the_top():
    lm = tiny("llama")
    hparams = replace(HPARAMS, layers=(0, 3))
    moments = plain_moments(lm, hparams.layers)
    mkvs = random_mkvs(lm, FACTS, lm.layers[3])
    edit = memit(lm, FACTS, mkvs, moments, CONTEXTS, hparams)
    wanted = textbook.memit(lm, FACTS, [mkv.z for mkv in mkvs], CONTEXTS, hparams, moments)
    for layer in hparams.layers:
        assert relative(edit.delta(layer), wanted[layer]) < 1e-3


def test_the_bare_prompts_key_counts_alone_where_there_is_no_prefix():
    lm = tiny("gpt2")
    moments = plain_moments(lm, HPARAMS.layers)
    mkvs = random_mkvs(lm, FACTS, lm.layers[HPARAMS.layer])
    edit = memit(lm, FACTS, mkvs, moments, ("",), HPARAMS)
    wanted = textbook.memit(lm, FACTS, [mkv.z for mkv in mkvs], ("",), HPARAMS, moments)
    assert all(relative(edit.delta(layer), wanted[layer]) < 1e-3 for layer in HPARAMS.layers)


@pytest.mark.parametrize("kind", MODELS)
def test_keys_and_states_are_read_from_the_partly_edited_model(kind):
    lm = tiny(kind)
    moments = plain_moments(lm, THREE.layers)
    mkvs = random_mkvs(lm, FACTS, lm.layers[THREE.layer])
    edit = memit(lm, FACTS, mkvs, moments, CONTEXTS, THREE)
    walk = read(lm, FACTS, CONTEXTS, THREE.layers)
    for layer, after in zip(THREE.layers, (*THREE.layers[1:], None), strict=True):
        keys = torch.stack([averaged_key(context_keys(lm, fact, CONTEXTS, layer)) for fact in FACTS])
        states = torch.stack([leaving(lm, lm.layers[THREE.layer], fact) for fact in FACTS])
        outputs = torch.stack([leaving(lm, lm.projection(layer), fact) for fact in FACTS])
        assert relative(walk.keys(), keys) < 1e-4
        assert relative(walk.states(), states) < 1e-4
        assert relative(walk.outputs(layer), outputs) < 1e-4
        if after is not None:
            walk = walk.after(edit.changes[layer], up_to=after)
            with torch.no_grad():
                lm.weight(layer).add_(edit.delta(layer))  # the textbook reads from weights that are written


@pytest.mark.parametrize("kind", ["gptj", "gemma3_text"])
def test_what_is_kept_of_a_layer_changes_no_bit_and_the_layer_runs_once(kind, monkeypatch):
    lm = tiny(kind)
    change = memit(
        lm,
        FACTS,
        random_mkvs(lm, FACTS, lm.layers[1]),
        plain_moments(lm, (0,)),
        CONTEXTS,
        replace(HPARAMS, layers=(0,)),
    ).changes[0]

    def walk():
        ran = []
        here = read(lm, FACTS, CONTEXTS, (0, 1))
        hook = lm.layers[0].register_forward_hook(lambda *_: ran.append(1))
        found = [here.keys(), here.states(), here.outputs(0), here.after(change, up_to=1).keys()]
        hook.remove()
        return found, len(ran), sum(1 + (c.beginnings is not None) for c in (*here.bare, *here.prefixed))

    kept, ran, parts = walk()
    assert ran == parts
    monkeypatch.setattr(readings, "KEPT", 0)
    again, more, _ = walk()
    assert more > 2 * parts
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_facts_may_come_in_any_order():
    lm = tiny("llama")
    moments = plain_moments(lm, HPARAMS.layers)
    mkvs = random_mkvs(lm, FACTS, lm.layers[HPARAMS.layer])
    one = memit(lm, FACTS, mkvs, moments, CONTEXTS, HPARAMS)
    other = memit(lm, FACTS[::-1], mkvs[::-1], moments, CONTEXTS, HPARAMS)
    assert all(relative(other.delta(layer), one.delta(layer)) < 1e-4 for layer in HPARAMS.layers)


def test_a_great_lambda_writes_nothing():
    lm = tiny("llama")
    moments = plain_moments(lm, HPARAMS.layers)
    edit = memit(lm, FACTS, random_mkvs(lm, FACTS, lm.layers[2]), moments, CONTEXTS, replace(HPARAMS, lam=1e12))
    assert all(float(edit.delta(layer).norm()) < 1e-6 for layer in HPARAMS.layers)


@pytest.mark.parametrize("kind", MODELS)
def test_the_edited_model_says_what_its_z_says(kind):
    lm = tiny(kind)
    facts, before = answered(lm), weights(lm)
    mkvs = compute_mkvs(lm, facts, CONTEXTS, STRONG)
    said = [fact for fact, mkv in zip(facts, mkvs, strict=True) if z_says(lm, fact, mkv)]
    assert len(said) == len(facts) or (lm.mlp_norm(2) and said)  # behind a norm not every z can be reached
    assert not any(says(lm, fact) for fact in facts)
    edit = memit(lm, said, moments=plain_moments(lm, STRONG.layers), contexts=CONTEXTS, hparams=STRONG)
    assert same_weights(lm, before)
    with edit.applied(lm):
        assert all(says(lm, fact) for fact in said)
    assert same_weights(lm, before)


@torch.no_grad()
def z_says(lm, fact, mkv) -> bool:
    ids, subject, target = locate(lm, fact)
    found = textbook.log_probs_at_target(lm, ids, subject, target, {lm.layers[STRONG.layer]: mkv.residual})
    return bool((found.argmax(-1) == ids[0, target:]).all())


@pytest.mark.parametrize("kind", MODELS)
def test_one_layer_and_a_small_lambda_bring_the_state_to_z(kind):
    """The bare prompt alone: each key is mapped exactly, through the norm behind the MLP where there is one."""
    lm = tiny(kind)
    hparams = replace(STRONG, layers=(2,), lam=1e-7, steps=10)
    facts = answered(lm)
    mkvs = compute_mkvs(lm, facts, ("",), hparams)
    edit = memit(lm, facts, mkvs, plain_moments(lm, hparams.layers), ("",), hparams)
    with edit.applied(lm):
        for fact, mkv in zip(facts, mkvs, strict=True):
            assert relative(leaving(lm, lm.layers[hparams.layer], fact), mkv.z) < 1e-3


PAIR = (
    Fact("Brazil", "The city in {} is", "Ulm", "Rome"),
    Fact("Brazil", "The city in {} was born as", "Paris", "Rome"),
)


def test_facts_of_one_subject_both_get_the_z_that_was_optimised_for_both():
    """The key collision of MEMIT-Merge (arXiv 2502.07322): one key can have one value only."""
    lm = tiny("llama")
    hparams = replace(STRONG, lam=1e-7, steps=10)
    facts = [*answered(lm)[1:], *PAIR]
    groups = same_key(lm, facts)
    assert sorted(groups) == [[0], [1], [2, 3]]
    moments = plain_moments(lm, hparams.layers)
    edit = memit(lm, facts, moments=moments, contexts=("",), hparams=hparams)
    shared = compute_mkvs(lm, facts, ("",), hparams, groups=groups)
    with edit.applied(lm):
        for fact, mkv in zip(facts, shared, strict=True):
            assert relative(leaving(lm, lm.layers[hparams.layer], fact), mkv.z) < 1e-2

    alone = compute_mkvs(lm, PAIR, ("",), hparams)  # without the merge each gets the mean of two values
    with pytest.warns(UserWarning, match="share a key"):
        torn = memit(lm, PAIR, alone, moments, ("",), hparams)
    with torn.applied(lm):
        state = leaving(lm, lm.layers[hparams.layer], PAIR[0])
    assert relative(state, (alone[0].z + alone[1].z) / 2) < 1e-2
    assert relative(alone[0].z, alone[1].z) > 0.1


def test_mkvs_of_one_key_that_differ_are_named_in_a_warning():
    lm = tiny("llama")
    mkvs = random_mkvs(lm, PAIR, lm.layers[HPARAMS.layer])
    with pytest.warns(UserWarning, match=r"1 groups of facts share a key but not their MKV \(Brazil\)"):
        memit(lm, PAIR, mkvs, plain_moments(lm, HPARAMS.layers), CONTEXTS, HPARAMS)


def test_an_edit_can_be_computed_on_an_edited_model():
    lm = tiny("llama")
    moments = plain_moments(lm, HPARAMS.layers)
    first = memit(lm, FACTS[:1], random_mkvs(lm, FACTS[:1], lm.layers[2]), moments, CONTEXTS, HPARAMS)
    with first.applied(lm):
        now = weights(lm)
        mkvs = random_mkvs(lm, FACTS[1:], lm.layers[2], seed=1)
        second = memit(lm, FACTS[1:], mkvs, moments, CONTEXTS, HPARAMS)
        assert same_weights(lm, now)
        wanted = textbook.memit(lm, FACTS[1:], [mkv.z for mkv in mkvs], CONTEXTS, HPARAMS, moments)
        assert all(relative(second.delta(layer), wanted[layer]) < 1e-3 for layer in HPARAMS.layers)
        second.apply(lm).remove()


REAL = (
    Fact("France", "The capital of {} is", "Rome", "Paris"),
    Fact("LeBron James", "{} plays the sport of", "football", "basketball"),
    Fact("The Eiffel Tower", "{} is located in the city of", "Berlin", "Paris"),
)
REAL_CONTEXTS = ("", "The day was long and warm. ")


@pytest.mark.model
def test_on_the_default_model_each_layers_change_is_the_textbooks(lm):
    moments = fleke.second_moments(lm)
    mkvs = compute_mkvs(lm, REAL, REAL_CONTEXTS)
    edit = memit(lm, REAL, mkvs, moments, REAL_CONTEXTS)
    wanted = textbook.memit(lm, REAL, [mkv.z for mkv in mkvs], REAL_CONTEXTS, lm.preset.memit, moments)
    for layer in lm.preset.layers:
        assert relative(edit.delta(layer), wanted[layer]) < 1e-3
    before = {layer: lm.weight(layer).clone() for layer in lm.preset.layers}
    assert not any(says(lm, fact) for fact in REAL)
    with edit.applied(lm):
        assert all(says(lm, fact) for fact in REAL)
    assert all(torch.equal(lm.weight(layer), weight) for layer, weight in before.items())


@pytest.mark.model
def test_on_the_default_model_two_facts_of_one_subject_both_hold(lm):
    facts = (
        Fact("Danielle Darrieux", "The mother tongue of {} is", "English", "French"),
        Fact("Danielle Darrieux", "The mother tongue of {}, who was born in the city of", "Rome", "Bordeaux"),
    )
    edit = memit(lm, facts, moments=fleke.second_moments(lm), contexts=REAL_CONTEXTS)
    with edit.applied(lm):
        assert all(says(lm, fact) for fact in facts)
