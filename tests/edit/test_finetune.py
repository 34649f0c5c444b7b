"""Constrained fine-tuning against a plain loop over the whole model."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.edit import finetune
from fleke_lib.model.presets import FinetuneHparams
from tests.textbook.memit import target_log_probs
from tests.textbook.samples import FACTS, answered, relative, same_weights, says, weights
from tests.tiny import KINDS, tiny

HPARAMS = FinetuneHparams(layer=2, steps=5, lr=1e-2, bound=2e-2)


def plain(lm, facts, hparams) -> torch.Tensor:
    """`baselines/ft/ft_main.py` of kmeng01/memit: Adam on the weight itself, clamped around its old values.

    In one thing unlike it: a target's later tokens are read behind its earlier ones.
    """
    module = lm.projection(hparams.layer)
    weight, original = module.weight.requires_grad_(True), module.weight.detach().clone()
    adam = torch.optim.Adam([weight], lr=hparams.lr)
    for _ in range(hparams.steps):
        losses = []
        for start in range(0, len(facts), hparams.batch):
            part = facts[start : start + hparams.batch]
            loss = torch.stack([-target_log_probs(lm, fact, "", {}).mean() for fact in part]).mean()
            losses.append(loss.item())
            if loss >= 1e-2:
                adam.zero_grad()
                loss.backward()
                adam.step()
            if hparams.bound is not None:
                with torch.no_grad():
                    weight.copy_(weight.clamp(original - hparams.bound, original + hparams.bound))
        if sum(losses) / len(losses) < 1e-2:
            break
    change = (weight.detach() - original).clone()
    with torch.no_grad():
        weight.copy_(original)
    weight.requires_grad_(False).grad = None
    return change if change.shape == lm.weight(hparams.layer).shape else change.T


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hparams", [HPARAMS, replace(HPARAMS, bound=None, batch=2)], ids=["bound", "free"])
def test_the_change_is_the_plain_loops(kind, hparams):
    """Adam divides a gradient by its own size, so entries whose gradient is rounding noise may go either way."""
    lm = tiny(kind)
    edit = finetune(lm, FACTS, hparams)
    assert edit.layers == (2,)
    assert relative(edit.delta(2), plain(lm, FACTS, hparams)) < 1e-2


def test_no_entry_leaves_the_bound():
    lm = tiny("llama")
    delta = finetune(lm, FACTS, HPARAMS).delta(2)
    assert float(delta.abs().max()) == pytest.approx(HPARAMS.bound)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_the_edited_model_says_the_new_targets(kind):
    lm = tiny(kind)
    facts, before = answered(lm), weights(lm)
    edit = finetune(lm, facts, replace(HPARAMS, steps=60, bound=None, lr=2e-2))
    assert same_weights(lm, before)
    assert not any(says(lm, fact) for fact in facts)
    with edit.applied(lm):
        assert all(says(lm, fact) for fact in facts)
    assert same_weights(lm, before)


def test_what_is_known_already_is_left_alone():
    lm = tiny("mistral")
    facts, hparams = answered(lm)[:1], replace(HPARAMS, layer=3, steps=100, bound=None, lr=5e-2)
    with finetune(lm, facts, hparams).applied(lm):
        assert target_log_probs(lm, facts[0], "", {}).mean() > -1e-2
        assert float(finetune(lm, facts, hparams).delta(3).norm()) == 0.0
