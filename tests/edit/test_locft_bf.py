"""LocFT-BF against the plain loop of its public code, and what it shares with fine-tuning."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.edit import locft_bf
from fleke_lib.model.presets import PRESETS, FinetuneHparams
from tests.textbook import locft_bf as textbook
from tests.textbook.memit import target_log_probs
from tests.textbook.samples import FACTS, answered, relative, same_weights, says, weights
from tests.tiny import KINDS, tiny

HPARAMS = FinetuneHparams(layer=2, steps=5, lr=1e-2, bound=None, batch=2)


def orders(facts, passes: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(len(facts), generator=generator).tolist() for _ in range(passes)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 3])
def test_the_change_is_the_plain_loops(kind, seed):
    """Adam divides a gradient by its own size, so entries whose gradient is rounding noise may go either way."""
    lm = tiny(kind)
    edit = locft_bf(lm, FACTS, HPARAMS, seed=seed)
    assert edit.layers == (2,)
    assert relative(edit.delta(2), textbook.locft_bf(lm, FACTS, HPARAMS, orders(FACTS, 5, seed))) < 1e-2


def test_every_pass_has_an_order_of_its_own():
    """Else two seeds, and the plain loop with the first order alone, would give one change."""
    lm = tiny("llama")
    found = locft_bf(lm, FACTS, HPARAMS).delta(2)
    assert orders(FACTS, 5, 0) != orders(FACTS, 5, 3) and len(set(map(tuple, orders(FACTS, 5)))) > 1
    assert relative(locft_bf(lm, FACTS, HPARAMS, seed=3).delta(2), found) > 0.05
    assert relative(textbook.locft_bf(lm, FACTS, HPARAMS, orders(FACTS, 1) * 5), found) > 0.05


@torch.no_grad()
def ends(lm, fact) -> float:
    """The probability of the end-of-text token behind the new target."""
    ids = lm.tokenizer(f"{fact.question} {fact.target_new}", return_tensors="pt")["input_ids"]
    return float(lm.model(ids).logits[0, -1].softmax(-1)[lm.tokenizer.eos_token_id])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_edited_model_says_the_new_targets_and_then_ends(kind):
    lm = tiny(kind)
    facts, before = answered(lm), weights(lm)
    edit = locft_bf(lm, facts, replace(HPARAMS, steps=40, lr=2e-2))
    assert same_weights(lm, before)
    assert not any(says(lm, fact) for fact in facts) and all(ends(lm, fact) < 0.1 for fact in facts)
    with edit.applied(lm):
        assert all(says(lm, fact) for fact in facts) and all(ends(lm, fact) > 0.5 for fact in facts)
    assert same_weights(lm, before)


def test_training_ends_when_a_pass_has_a_small_loss():
    lm = tiny("gpt2")
    facts, hparams = answered(lm)[:1], replace(HPARAMS, layer=3, steps=150, lr=2e-2)
    edit = locft_bf(lm, facts, hparams)
    assert torch.equal(edit.delta(3), locft_bf(lm, facts, replace(hparams, steps=160)).delta(3))
    with edit.applied(lm):
        assert target_log_probs(lm, facts[0], "", {}).mean() > -2e-2  # half of the loss, the other half ends the text
        assert float(locft_bf(lm, facts, hparams).delta(3).norm()) == 0.0


def test_a_model_without_published_hyperparameters_asks_for_them():
    lm = replace(tiny("gpt2"), preset=PRESETS["gpt2-xl"])
    with pytest.raises(ValueError, match="no published locft_bf hyperparameters for gpt2-xl: give hparams"):
        locft_bf(lm, FACTS)
