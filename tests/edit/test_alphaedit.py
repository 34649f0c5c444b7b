"""AlphaEdit against the textbook: its projector, its write given the same z, and that ordinary keys are unaffected."""

import pytest
import torch

from fleke_lib.edit import alphaedit
from fleke_lib.edit.alphaedit import threshold
from fleke_lib.model.presets import AlphaEditHparams
from fleke_lib.ridge.solve import null_space
from tests.textbook import alphaedit as textbook
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


def hparams_for(moments, like=HPARAMS, ridge: float = 1.0) -> AlphaEditHparams:
    """Half of the first layer's directions count as unused; the threshold lies between two eigenvalues."""
    values = torch.linalg.eigvalsh(moments[like.layers[0]])
    threshold = float(values[len(values) // 2 - 1 : len(values) // 2 + 1].mean())
    shared = {name: getattr(like, name) for name in ("layers", "steps", "clamp", "kl_factor")}
    return AlphaEditHparams(nullspace=threshold, ridge=ridge, **shared)


@pytest.mark.parametrize("kind", [*KINDS, WILD])
def test_each_layers_change_is_the_textbooks_given_the_same_z(kind):
    lm = tiny(kind)
    moments = plain_moments(lm, HPARAMS.layers)
    hparams = hparams_for(moments)
    mkvs = random_mkvs(lm, FACTS, lm.layers[hparams.layer])
    edit = alphaedit(lm, FACTS, mkvs, moments, CONTEXTS, hparams)
    wanted = textbook.alphaedit(lm, FACTS, [mkv.z for mkv in mkvs], CONTEXTS, hparams, moments)
    for layer in hparams.layers:
        assert 0 < torch.linalg.matrix_rank(null_space(moments[layer], hparams.nullspace)) < lm.d_mlp
        assert relative(edit.delta(layer), wanted[layer]) < 1e-3


def test_a_threshold_can_be_relative_to_the_keys_of_a_model():
    """Keys a thousand times as large use the same directions."""
    lm = tiny("llama")
    moments = plain_moments(lm, (1,))
    hparams = AlphaEditHparams((1,), nullspace=None)
    assert threshold(moments[1], hparams) == pytest.approx(0.75 * float(moments[1].trace()) / lm.d_mlp)
    unused = null_space(moments[1], threshold(moments[1], hparams))
    large = 1e6 * moments[1]
    assert relative(null_space(large, threshold(large, hparams)), unused) < 1e-6
    assert 0 < torch.linalg.matrix_rank(unused) < lm.d_mlp
    assert threshold(large, AlphaEditHparams((1,))) == 0.02


def test_directions_that_text_uses_are_not_written():
    lm = tiny("llama")
    moments = plain_moments(lm, HPARAMS.layers)
    hparams = hparams_for(moments)
    edit = alphaedit(lm, FACTS, random_mkvs(lm, FACTS, lm.layers[2]), moments, CONTEXTS, hparams)
    for layer in hparams.layers:
        used = torch.eye(lm.d_mlp, dtype=torch.float64) - textbook.projector(moments[layer], hparams.nullspace)
        assert relative(edit.delta(layer) @ used + edit.delta(layer), edit.delta(layer)) < 1e-9


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gptj"])
def test_the_edited_model_says_the_new_targets(kind):
    lm = tiny(kind)
    facts, before = answered(lm), weights(lm)
    moments = plain_moments(lm, STRONG.layers)
    hparams = hparams_for(moments, STRONG, ridge=0.01)
    edit = alphaedit(lm, facts, moments=moments, contexts=CONTEXTS, hparams=hparams)
    assert same_weights(lm, before)
    assert not any(says(lm, fact) for fact in facts)
    with edit.applied(lm):
        assert all(says(lm, fact) for fact in facts)
    assert same_weights(lm, before)
