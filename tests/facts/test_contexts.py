"""Contexts that a model writes itself: by the base model, once, whatever is applied to it."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.edit import Edit, memit, write
from fleke_lib.edit.readings import read
from fleke_lib.facts.contexts import contexts_for, write_contexts
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.ridge.solve import LowRank
from tests.textbook.samples import FACTS, HPARAMS, same_weights, weights
from tests.tiny import KINDS, tiny


def strong_edit(lm, seed: int = 0) -> Edit:
    """A random edit that changes what the model writes."""
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(side, generator=generator) for side in ((lm.d_model, 4), (4, lm.d_mlp))]
    return Edit({1: LowRank(*factors), 2: LowRank(*factors)}, lm.fingerprint((1, 2)))


def counted(lm, monkeypatch) -> list:
    """Grows by one whenever the model generates text."""
    calls, generate = [], lm.model.generate
    monkeypatch.setattr(lm.model, "generate", lambda *args, **kwargs: calls.append(1) or generate(*args, **kwargs))
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_written_once_and_are_the_base_models_while_edits_are_applied(kind, monkeypatch):
    lm, wanted = tiny(kind), write_contexts(tiny(kind))
    calls = counted(lm, monkeypatch)
    with strong_edit(lm).applied(lm):
        with strong_edit(lm, 1).applied(lm):
            before = weights(lm)
            assert write_contexts(lm) != wanted
            assert contexts_for(lm) == wanted
            assert same_weights(lm, before)
        assert contexts_for(lm) == wanted
    assert contexts_for(lm) == contexts_for(replace(lm, name="the same model")) == wanted
    assert len(calls) == 2  # one of them for the edited model, above


def test_a_model_that_changed_writes_its_own(monkeypatch):
    lm = tiny("llama")
    calls, first = counted(lm, monkeypatch), contexts_for(lm)
    lm.embeddings.weight[5:].mul_(-3)
    assert contexts_for(lm) == write_contexts(lm) != first
    assert len(calls) == 3
    assert contexts_for(replace(lm, preset=replace(lm.preset, contexts=("", "Yes. ")))) == ("", "Yes. ")


def test_an_error_while_they_are_written_restores_the_edited_weights(monkeypatch):
    lm = tiny("gpt2")

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with strong_edit(lm).applied(lm) as edited:
        before = weights(lm)
        with monkeypatch.context() as patch:
            patch.setattr(lm.model, "generate", interrupted)
            with pytest.raises(KeyboardInterrupt):
                contexts_for(edited)
        assert same_weights(lm, before)
    assert contexts_for(lm) == write_contexts(tiny("gpt2"))


def test_memit_reads_an_edited_models_keys_in_the_contexts_of_the_base_models_mkvs(monkeypatch):
    """As `sequential_with_text` does: MKVs of the base model, and then MEMIT on the edited one."""
    lm, read_in = tiny("llama"), []
    lm = replace(lm, preset=replace(lm.preset, memit=HPARAMS))
    assert lm.preset.contexts is None
    wanted, moments = contexts_for(lm), {layer: torch.eye(lm.d_mlp, dtype=torch.float64) for layer in HPARAMS.layers}
    mkvs = compute_mkvs(lm, FACTS[:2])
    monkeypatch.setattr(write, "read", lambda *args: read_in.append(args[2]) or read(*args))
    with strong_edit(lm).applied(lm):
        memit(lm, FACTS[:2], mkvs, moments)
    assert read_in == [wanted]
