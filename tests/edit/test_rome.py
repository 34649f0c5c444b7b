"""ROME against the textbook: the rank-one write given the same v, and its equality constraint."""

from dataclasses import replace

import pytest

from fleke_lib.edit import rome
from fleke_lib.mkv.mkv import compute_mkvs
from tests.textbook import norm
from tests.textbook import rome as textbook
from tests.textbook.reading import entering, leaving
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

PLAIN = [kind for kind in KINDS if kind != "gemma3_text"]  # behind a norm v is no state of the stream
ROME = replace(HPARAMS, layers=(2,))


@pytest.mark.parametrize("kind", [*KINDS, WILD])
def test_the_change_is_the_textbooks_given_the_same_v(kind):
    lm = tiny(kind)
    moments = plain_moments(lm, ROME.layers)
    for fact, mkv in zip(FACTS, random_mkvs(lm, FACTS, lm.layers[ROME.layer]), strict=True):
        edit = rome(lm, [fact], [mkv], moments, CONTEXTS, ROME)
        output = leaving(lm, lm.projection(ROME.layer), fact)
        v = output + norm.carried(lm, ROME.layer, output, mkv.residual)
        assert relative(edit.delta(2), textbook.rome(lm, fact, v, CONTEXTS, ROME, moments)) < 1e-3
        assert edit.changes[2].rank == 1


@pytest.mark.parametrize("kind", PLAIN)
def test_the_residual_of_v_is_that_of_z(kind):
    """The wanted change is one vector for the MLP's output and the stream; only decay and clamp have other units."""
    lm = tiny(kind)
    hparams = replace(ROME, weight_decay=0.0, clamp=1e3)
    fact = FACTS[0]
    (mkv,) = compute_mkvs(lm, [fact], CONTEXTS, hparams)
    v = textbook.compute_v(lm, fact, CONTEXTS, hparams)
    assert cosine(mkv.residual, v - leaving(lm, lm.projection(2), fact)) >= 0.999


@pytest.mark.parametrize("kind", [*KINDS, WILD])
def test_the_key_is_mapped_to_z_exactly(kind):
    """The constraint holds for the bare prompt's key, whatever C is, and through the norm behind the MLP."""
    lm = tiny(kind)
    (fact, *_), hparams = answered(lm), replace(STRONG, layers=(2,), steps=10)
    (mkv,) = compute_mkvs(lm, [fact], CONTEXTS, hparams)
    edit = rome(lm, [fact], [mkv], plain_moments(lm, (2,)), CONTEXTS, hparams)
    key = entering(lm, lm.projection(2), fact).double()
    with edit.applied(lm):
        assert relative(leaving(lm, lm.layers[2], fact), mkv.z) < 1e-4
    if kind in PLAIN:
        assert relative(edit.delta(2) @ key, mkv.residual) < 1e-5


def test_of_several_facts_the_last_one_holds_exactly():
    lm = tiny("llama")
    mkvs = random_mkvs(lm, FACTS, lm.layers[2])
    edit = rome(lm, FACTS, mkvs, plain_moments(lm, (2,)), CONTEXTS, ROME)
    assert edit.changes[2].rank == len(FACTS)
    with edit.applied(lm):
        assert relative(leaving(lm, lm.layers[2], FACTS[-1]), mkvs[-1].z) < 1e-4


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_the_edited_model_says_the_new_target(kind):
    lm = tiny(kind)
    before, hparams = weights(lm), replace(STRONG, layers=(2,))
    for fact in answered(lm):
        edit = rome(lm, [fact], moments=plain_moments(lm, (2,)), contexts=CONTEXTS, hparams=hparams)
        assert same_weights(lm, before)
        assert not says(lm, fact)
        with edit.applied(lm):
            assert says(lm, fact)
    assert same_weights(lm, before)


def test_it_edits_one_layer():
    lm = tiny("llama")
    with pytest.raises(ValueError, match=r"^ROME edits one layer, but layers is \(1, 2\): give one\.$"):
        rome(lm, FACTS, contexts=CONTEXTS, hparams=HPARAMS)
