"""A text that is longer than the model's context is refused in one sentence, and one that just fits is read."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fleke_lib import Fact, edit, evaluate
from fleke_lib.edit import moments
from fleke_lib.edit.readings import read
from fleke_lib.evaluation.likelihood import log_probs
from fleke_lib.facts.fact import Neighbour
from fleke_lib.federation.registry.admission import ordinary_state
from fleke_lib.federation.retrieval.topics import question_embeddings
from fleke_lib.locate import causal_trace
from fleke_lib.mkv import compute_mkvs
from fleke_lib.model import generation
from fleke_lib.model.activations import record
from fleke_lib.model.presets import FinetuneHparams, Hparams
from fleke_lib.model.tokens import context_length
from tests.tiny import KINDS, TEXT, tiny, with_vision_tower

FACT = Fact("France", "The capital of {} is", "Rome", "Paris")
LONG = replace(FACT, subject="France " * 600 + "x")
LAYERS = Hparams((1, 2), steps=2)
USES = {
    "evaluation": lambda lm: evaluate(lm, [FACT, LONG]),
    "a paraphrase": lambda lm: evaluate(lm, [replace(FACT, paraphrases=(LONG.question,))]),
    "a neighbour": lambda lm: evaluate(lm, [replace(FACT, neighbours=(Neighbour(LONG.question, "Ulm"),))]),
    "MKVs": lambda lm: compute_mkvs(lm, [FACT, LONG], ("",), LAYERS),
    "MKVs behind a context": lambda lm: compute_mkvs(lm, [FACT], ("", "France " * 600), LAYERS),
    "readings": lambda lm: read(lm, [FACT, LONG], ("",), (1, 2)),
    "fine-tuning": lambda lm: edit.finetune(lm, [FACT, LONG], hparams=FinetuneHparams(1)),
    "LocFT-BF": lambda lm: edit.locft_bf(lm, [FACT, LONG], hparams=FinetuneHparams(1)),
    "tracing": lambda lm: causal_trace(lm, LONG),
    "greedy text": lambda lm: generation.greedy(lm, ["The", LONG.question], 1),
    "sampled text": lambda lm: generation.sample(lm, ["The", LONG.question], 1),
    "topics": lambda lm: question_embeddings(lm, [FACT, LONG]),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])  # whose positions are a table, and computed
def test_a_longer_text_gets_one_sentence(kind, use):
    said = r"the text '.*France France .*' has \d{4} tokens, but tiny-\w+ reads at most 512: give a shorter text"
    with pytest.raises(ValueError, match=said) as error:
        use(tiny(kind))
    assert len(str(error.value)) < 200


def test_the_limit_counts_every_token_that_is_read():
    """The target's last token is predicted and not read."""
    lm = tiny("gpt2")
    words = " the" * 511
    assert len(lm.tokenizer("The" + words).input_ids) == context_length(lm) == 512
    assert log_probs(lm, ["The" + words], ["the"]).isfinite().all()
    with pytest.raises(ValueError, match="has 514 tokens, but tiny-gpt2 reads at most 512"):
        log_probs(lm, ["The" + words], ["the the"])
    generation.greedy(lm, ["The" + words], 1)
    generation.greedy(lm, ["The"], 512)
    with pytest.raises(ValueError, match="'The' has 1 tokens and 513 are to follow, but tiny-gpt2 reads at most 512"):
        generation.greedy(lm, ["The"], 513)


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_says_its_limit(kind):
    assert context_length(tiny(kind)) == 512


def test_a_limit_may_lie_one_level_deeper_or_nowhere():
    lm = with_vision_tower(tiny("gemma3_text"))
    assert context_length(lm) == 512
    del lm.config.max_position_embeddings
    assert log_probs(lm, ["the " * 600], ["the"]).isfinite().all()


def test_sample_text_is_read_in_windows_that_fit(tmp_path):
    lm = tiny("gpt2")
    lm.model.config.n_positions = 20
    lm.model.transformer.wpe.weight.data = lm.model.transformer.wpe.weight[:20]
    ids = lm.tokenizer(TEXT).input_ids
    with torch.no_grad(), record(inputs={"k": lm.projection(2)}) as seen:
        keys = [lm.model(torch.tensor([ids[i : i + 20]])) and seen["k"][0].double() for i in range(0, len(ids), 20)]
    k = torch.cat(keys)
    assert len(k) == len(ids) > 60
    found = moments.second_moments(lm, [2], [TEXT], folder=tmp_path)[2]
    assert_close(found, k.T @ k / len(k), atol=1e-5, rtol=1e-4)
    assert ordinary_state(lm, 1) > 0
