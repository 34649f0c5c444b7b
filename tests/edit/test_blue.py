"""BLUE against the textbook: an MKV and a full write in the first layer, then the same in the last one."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.edit import blue, memit
from tests.textbook import memit as textbook
from tests.textbook.samples import (
    CONTEXTS,
    FACTS,
    HPARAMS,
    STRONG,
    answered,
    plain_moments,
    relative,
    same_weights,
    says,
    weights,
)
from tests.tiny import KINDS, WILD, tiny

WIDE = replace(HPARAMS, layers=(0, 1, 2))


def plain(lm, facts, hparams, moments) -> dict[int, torch.Tensor]:
    """`execute_memit_blue` of xpq-tech/BLUE: z of this layer, on the model as edited so far; its whole residual."""
    before, changes = weights(lm), {}
    for layer in (hparams.layers[0], hparams.layers[-1]):
        alone = replace(hparams, layers=(layer,))
        zs = [textbook.compute_z(lm, fact, CONTEXTS, alone) for fact in facts]
        changes |= textbook.memit(lm, facts, zs, CONTEXTS, alone, moments)
        with torch.no_grad():
            lm.weight(layer).add_(changes[layer])
    lm.model.load_state_dict(before)
    return changes


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, WILD])
def test_both_layers_get_what_the_textbook_writes(kind):
    lm, facts = tiny(kind), FACTS[:2]
    moments = plain_moments(lm, WIDE.layers)
    edit = blue(lm, facts, moments, CONTEXTS, WIDE)
    wanted = plain(lm, facts, WIDE, moments)
    assert edit.layers == (0, 2)
    assert all(relative(edit.delta(layer), wanted[layer]) < 2e-2 for layer in edit.layers)


def test_the_model_is_unchanged_and_the_edit_is_of_it():
    lm = tiny("llama")
    facts, before = answered(lm), weights(lm)
    edit = blue(lm, facts, plain_moments(lm, STRONG.layers), CONTEXTS, STRONG)
    assert same_weights(lm, before) and not lm.edits
    with edit.applied(lm):
        assert all(says(lm, fact) for fact in facts)
    assert same_weights(lm, before)


def test_with_one_layer_it_is_memit():
    lm = tiny("gpt2")
    hparams, moments = replace(HPARAMS, layers=(2,)), plain_moments(lm, (2,))
    one, other = (
        method(lm, FACTS, **rest)
        for method, rest in (
            (blue, {"moments": moments, "contexts": CONTEXTS, "hparams": hparams}),
            (memit, {"moments": moments, "contexts": CONTEXTS, "hparams": hparams}),
        )
    )
    assert one.layers == (2,) and torch.equal(one.delta(2), other.delta(2))
