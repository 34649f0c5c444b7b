"""Harm against transformers' own loss, torch's own divergence and plain decoding; zero without an edit, exactly."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fleke_lib.edit.moments import sample_text
from fleke_lib.evaluation import evaluate, prepare_harm
from fleke_lib.evaluation.harm import SHIPPED, HarmReference
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import load_facts
from fleke_lib.model.generation import greedy
from tests.tiny import KINDS, TEXT, tiny

TEXTS = ("The capital of France is Paris. The capital of Italy is Rome.", "Water is made of hydrogen and oxygen.")
PROMPTS = ("The author of", "It is a question of the time that", "Steve")
FACT = Fact("France", "The capital of {} is", "Rome", "Paris")


def questions(lm) -> list[tuple[str, str]]:
    """Questions that a random model answers with one word: what it writes by itself behind beginnings of sentences."""
    words = TEXT.split()
    asked = [" ".join(words[i : i + 3]) for i in range(60)]
    found = [(prompt, text.strip()) for prompt, text in zip(asked, greedy(lm, asked, 1), strict=True)]
    kept = [pair for pair in found if pair[1].isascii() and pair[1].isalpha()]
    size = {text: len(lm.tokenizer(text).input_ids) for pair in kept for text in (pair[0], " ".join(pair))}
    return [pair for pair in kept if size[" ".join(pair)] == size[pair[0]] + 1 and follows(lm, *pair)]


def follows(lm, prompt: str, answer: str) -> bool:
    """Whether the answer's one token behind a blank is the model's first choice, by transformers' own forward pass."""
    ids = lm.tokenizer(f"{prompt} {answer}", return_tensors="pt").input_ids
    return bool(lm.model(ids[:, :-1]).logits[0, -1].argmax() == ids[0, -1])


def reference(lm, **changes) -> HarmReference:
    return prepare_harm(lm, **{"texts": TEXTS, "prompts": PROMPTS, "questions": questions(lm), "below": 1} | changes)


def noised(lm, size: float):
    """The same model with noise in the weights of its edited projections."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in range(1, lm.n_layers):
            weight = lm.weight(layer)
            noise = torch.randn(weight.shape, generator=generator)
            weight += size * weight.std() * noise
    return lm


def loss(lm, text: str) -> tuple[float, int]:
    """transformers' own loss of a text whose first word is given: the sum over tokens, and their number."""
    ids = lm.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    spans, labels = ids.pop("offset_mapping")[0].tolist(), ids["input_ids"].clone()
    first = len(text.split(maxsplit=1)[0])
    labels[0, [end <= first for _, end in spans]] = -100
    counted = int((labels[0, 1:] != -100).sum())
    return float(lm.model(input_ids=ids["input_ids"], labels=labels).loss) * counted, counted


@pytest.mark.parametrize("kind", KINDS)
def test_no_edit_does_no_harm_exactly(kind):
    lm = tiny(kind)
    found = reference(lm).measure(lm)
    assert (found.perplexity, found.divergence, found.battery) == (1, 0, 1)
    assert found.perplexity_interval == found.battery_interval == (1, 1) and found.divergence_interval == (0, 0)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_perplexity_is_that_of_transformers(kind):
    lm = tiny(kind)
    harm, before = reference(lm), [loss(lm, text) for text in TEXTS]
    after = [loss(noised(lm, 0.5), TEXTS[0]), loss(lm, TEXTS[1])]
    assert before != after
    count = sum(n for _, n in before)
    expected = np.exp(sum(value for value, _ in after) / count - sum(value for value, _ in before) / count)
    assert harm.measure(lm).perplexity == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_divergence_is_that_of_torch(kind):
    lm = tiny(kind)
    harm = reference(lm)

    def predictions() -> torch.Tensor:
        ids = [lm.tokenizer(prompt, return_tensors="pt").input_ids for prompt in PROMPTS]
        return torch.stack([lm.model(row).logits[0, -1].log_softmax(-1) for row in ids])

    before = predictions()
    noised(lm, 0.5)
    expected = torch.nn.functional.kl_div(predictions(), before, log_target=True, reduction="batchmean")
    found = harm.measure(lm)
    assert found.divergence == pytest.approx(float(expected), rel=1e-3) and found.divergence > 0
    assert found.divergence_interval[0] <= found.divergence <= found.divergence_interval[1]


def test_the_battery_is_what_the_model_still_writes():
    lm = tiny("gpt2")
    harm = reference(lm)
    noised(lm, 1.0)
    kept = [follows(lm, *pair) for pair in harm.questions]
    assert kept and not all(kept)
    assert harm.measure(lm).battery == pytest.approx(np.mean(kept))


def test_questions_that_the_model_cannot_answer_do_not_count():
    lm = tiny("gpt2")
    right = questions(lm)
    assert len(right) > 3
    harm = prepare_harm(lm, texts=TEXTS, prompts=PROMPTS, questions=[*right, ("The capital of", "café")], below=1)
    assert harm.questions == tuple(right)


def test_harm_grows_with_the_noise():
    found = []
    for size in (0.0, 0.05, 0.2, 0.8):
        lm = tiny("llama")
        harm = reference(lm)
        found.append(harm.measure(noised(lm, size)))
    assert all(one.divergence < other.divergence for one, other in pairwise(found))
    assert found[0].battery == 1 and found[-1].battery < 1


def test_evaluate_measures_it_when_asked():
    lm = tiny("gpt2")
    harm = reference(lm)
    plain, found = evaluate(lm, [FACT]), evaluate(lm, [FACT], harm=harm)
    assert plain.harm is None and "harm" not in plain.to_dict() and "Harm" not in repr(plain)
    assert found.harm == harm.measure(lm) and found.subset([0]).harm == found.harm
    assert json.loads(json.dumps(found.to_dict()))["harm"]["divergence"] == 0
    assert "divergence" in repr(found) and "divergence" in found._repr_html_()
    assert all(np.array_equal(found.per_fact[name], plain.per_fact[name], equal_nan=True) for name in plain.per_fact)


def test_what_cannot_be_measured_is_refused():
    lm = tiny("gpt2")
    harm = reference(lm, below=2)
    for changes, message in [
        ({"texts": ["alone"]}, "fewer than two words"),
        ({"texts": "one text"}, "give a list of texts"),
        ({"prompts": []}, "give at least one of each"),
        ({"prompts": [""]}, "prompt 0 is empty"),
        ({"below": 9}, "layer 9 does not exist"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            reference(lm, **changes)
    with torch.no_grad():
        lm.weight(1).add_(0.1)
    with pytest.raises(ValueError, match="has changed below layer 2"):
        harm.measure(lm)
    with pytest.raises(ValueError, match="1 edits applied"):
        reference(replace(lm, edits=[None]))


def test_the_shipped_data_are_about_nothing_that_is_edited():
    """No subject of the atlas occurs in a prompt or a question, and no text is one of those that C is measured on."""
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    assert {name: len(part) for name, part in shipped.items()} == COUNTS
    subjects = {fact.subject.lower() for fact in load_facts("atlas")}
    for text in [*shipped["prompts"], *(question for question, _ in shipped["questions"])]:
        assert not any(re.search(rf"\b{re.escape(subject)}\b", text.lower()) for subject in subjects), text
    begun = {" ".join(text.split()[:3]) for text in sample_text()}
    assert not begun & {" ".join(text.split()[:3]) for text in shipped["texts"]}
    for part in shipped.values():
        assert len({json.dumps(one) for one in part}) == len(part)
    assert SHIPPED.stat().st_size < 200_000


@pytest.mark.model
def test_the_default_model_answers_every_shipped_question(lm):
    harm = prepare_harm(lm)
    assert len(harm.questions) == COUNTS["questions"]
    assert harm.measure(lm).to_dict() == {
        "perplexity": 1, "divergence": 0, "battery": 1,
        "perplexity_interval": (1, 1), "divergence_interval": (0, 0), "battery_interval": (1, 1),
    }  # fmt: skip


COUNTS = {"texts": 29, "prompts": 64, "questions": 101}


def test_without_a_question_that_the_model_answers_there_is_no_battery():
    lm = tiny("llama")
    harm = reference(lm, questions=[("The capital of", "café")])
    assert harm.questions == ()
    found = harm.measure(lm)
    assert (found.perplexity, found.divergence) == (1.0, 0.0) and np.isnan(
        [found.battery, *found.battery_interval]
    ).all()
