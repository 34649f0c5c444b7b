"""Metrics against values computed by hand, and batched generation against generation one prompt at a time."""

import unicodedata
from dataclasses import replace
from math import exp, log, log2

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import tensor

from fleke_lib.evaluation import likelihood
from fleke_lib.evaluation.metrics import (
    evaluate,
    generation_quality,
    ngram_entropy,
    prepare_evaluation,
    references_from,
)
from fleke_lib.evaluation.resampling import bootstrap
from fleke_lib.evaluation.results import Evaluation, difference, harmonic_mean
from fleke_lib.facts.contexts import STARTS, write_contexts
from fleke_lib.facts.fact import Fact, Neighbour
from fleke_lib.model import generation
from tests.tiny import KINDS, tiny

FRANCE = Fact(
    "France",
    "The capital of {} is",
    "Rome",
    "Paris",
    relation="P36",
    paraphrases=("France is governed from", "The seat of France is in"),
    neighbours=(Neighbour("The capital of Italy is", "Tokyo"), Neighbour("The capital of Japan is", "Tokyo")),
    generation_prompts=("The city of France is", "France is", "The city of France is"),
    id="france",
)
HAMLET = Fact(
    "Hamlet",
    "The author of {} is",
    "Johann Wolfgang von Goethe",
    "William Shakespeare",
    relation="P50",
    neighbours=(Neighbour("The author of Faust is", "Johann Wolfgang von Goethe"),),
    generation_prompts=("Hamlet is",),
    id="hamlet",
)
FACTS = (FRANCE, HAMLET)


def evaluation(**columns) -> Evaluation:
    size = len(next(iter(columns.values())))
    return Evaluation((FRANCE,) * size, {name: np.array(column, dtype=float) for name, column in columns.items()})


def test_metrics_by_hand(monkeypatch):
    """Probabilities of (answer, rival): the question, two paraphrases, two neighbours of France; Hamlet's question."""
    pairs = [(0.5, 0.2), (0.1, 0.3), (0.4, 0.2), (0.2, 0.1), (0.1, 0.6), (0.25, 0.25)]
    accuracy = [1.0, 0.5, 1.0, 1.0, 0.0, 0.75]
    made = likelihood.Scores(
        tensor([log(p) for pair in pairs for p in pair], dtype=torch.float64),
        tensor([a for own in accuracy for a in (own, 0.0)]),
        torch.ones(12),
    )
    monkeypatch.setattr(likelihood, "score", lambda lm, plan: made)
    found = evaluate(tiny("gpt2"), FACTS)
    expected = {
        "efficacy": [1, 0],  # equally likely is no success
        "efficacy_magnitude": [0.3, 0],
        "paraphrase": [0.5, np.nan],
        "paraphrase_magnitude": [0.0, np.nan],
        "specificity": [0.5, np.nan],  # Hamlet's only neighbour has the new target as its own answer
        "specificity_magnitude": [-0.2, np.nan],
        "probability": [0.5, 0.25],
        "top1": [1, 0],
        "edit_accuracy": [1, 0.75],
        "paraphrase_accuracy": [0.75, np.nan],
        "neighbour_accuracy": [0.5, np.nan],
    }
    assert found.per_fact.keys() == expected.keys()
    for name, values in expected.items():
        assert_allclose(found.per_fact[name], values, atol=1e-12, err_msg=name)
        assert_allclose(getattr(found, name), np.nanmean(values), atol=1e-12, err_msg=name)
    assert found.score == pytest.approx(0.5)


@torch.no_grad()
def test_metrics_of_a_model_agree_with_plain_log_probabilities():
    lm = tiny("llama")

    def probability(prompt, target):
        ids, start = lm.tokenizer(f"{prompt} {target}")["input_ids"], len(lm.tokenizer(prompt)["input_ids"])
        logs = lm.model(tensor([ids])).logits[0].log_softmax(-1)
        return exp(np.mean([float(logs[i - 1, ids[i]]) for i in range(start, len(ids))]))

    found = evaluate(lm, FACTS)
    new, true = probability(FRANCE.question, "Rome"), probability(FRANCE.question, "Paris")
    assert_allclose(found.per_fact["efficacy_magnitude"][0], new - true, atol=1e-5)
    assert found.per_fact["efficacy"][0] == (new > true)
    near = [(probability(n.prompt, n.target), probability(n.prompt, "Rome")) for n in FRANCE.neighbours]
    assert_allclose(found.per_fact["specificity_magnitude"][0], np.mean([a - b for a, b in near]), atol=1e-5)
    assert found.per_fact["specificity"][0] == np.mean([a > b for a, b in near])


def test_texts_are_compared_in_one_unicode_form(monkeypatch):
    """A neighbour that has the new target as its own answer cannot show harm, and references are found."""
    lm, apart = tiny("gpt2"), unicodedata.normalize("NFD", "Perú")
    fact = replace(FRANCE, target_new="Perú", neighbours=(Neighbour("Lima lies in", apart),))
    assert np.isnan(evaluate(lm, [fact]).specificity)
    monkeypatch.setattr(generation, "sample", lambda lm, prompts, tokens, seed: [" tower" for _ in prompts])
    assert generation_quality(lm, [fact], references={("P36", apart): ["a tower"]}).consistency > 0
    truth = replace(FRANCE, target_true=apart)
    assert references_from(lm, [truth]).keys() == {("P36", "Perú")}


def test_harmonic_mean():
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.9, 0.9, 0.9) == pytest.approx(0.9)
    assert harmonic_mean(1.0, 0.0, 1.0) == 0
    assert np.isnan(harmonic_mean(1.0, np.nan))


def test_interval_of_a_share_is_the_binomial_one():
    share, n = 0.3, 400
    found = evaluation(efficacy=[1] * int(share * n) + [0] * int((1 - share) * n))
    low, high = found.interval("efficacy", samples=4000)
    half = 1.96 * (share * (1 - share) / n) ** 0.5
    assert_allclose([low, high], [share - half, share + half], atol=0.006)
    assert found.interval("efficacy") == found.interval("efficacy")
    assert_allclose(bootstrap(found.per_fact["efficacy"], samples=4000), [low, high])
    narrow = found.interval("efficacy", level=0.5)
    assert low < narrow[0] < share < narrow[1] < high


def test_interval_covers_the_truth():
    """Of 200 samples of 80 numbers with mean 1, about 95 in 100 have an interval with 1 in it."""
    draws = np.random.default_rng(0).exponential(size=(200, 80))
    hits = [low < 1 < high for low, high in (evaluation(probability=d).interval("probability") for d in draws)]
    assert 0.88 < np.mean(hits) < 0.99


def test_interval_of_the_score_draws_the_three_metrics_together():
    found = evaluation(efficacy=[1, 0, 1, 1], paraphrase=[1, 0, 1, 1], specificity=[1, 0, 1, 1])
    assert found.score == pytest.approx(0.75)
    assert found.interval("score") == found.interval("efficacy")


def test_one_fact_has_no_width_and_none_has_no_number():
    assert evaluation(efficacy=[1]).interval("efficacy") == (1, 1)
    empty = evaluation(efficacy=[1, 1], specificity=[np.nan, np.nan])
    assert np.isnan([empty.specificity, *empty.interval("specificity")]).all()
    assert [name for name, *_ in empty.rows()] == ["efficacy"]


def test_difference_is_paired():
    rng = np.random.default_rng(0)
    base = rng.random(100)
    one, other = evaluation(probability=base + 0.1), evaluation(probability=base)
    change, low, high = difference(one, other, "probability")
    assert_allclose([change, low, high], 0.1)
    with pytest.raises(ValueError, match="not of the same facts"):
        difference(one, evaluation(probability=[1]), "probability")


def test_subset_and_dictionary():
    found = evaluation(efficacy=[1, 0, 1], paraphrase=[1, np.nan, 0])
    assert found.subset([0, 2]).efficacy == 1
    assert found.subset(np.array([False, True, True])).efficacy == 0.5
    assert found.to_dict()["per_fact"]["paraphrase"] == [1, None, 0]
    assert found.to_dict()["metrics"]["efficacy"]["mean"] == pytest.approx(2 / 3)
    assert "efficacy" in repr(found) and "0.667" in repr(found)
    assert "<td>0.667</td>" in found._repr_html_()
    with pytest.raises(ValueError, match="no facts"):
        found.subset([])
    with pytest.raises(ValueError, match="entropy was not measured: this evaluation has efficacy, paraphrase"):
        _ = found.entropy


def test_prepared_evaluation():
    lm = tiny("llama")
    prepared = prepare_evaluation(lm, FACTS, below=1)
    assert_allclose(prepared.before.probability, evaluate(lm, FACTS).probability, rtol=1e-5)
    with torch.no_grad():
        lm.weight(2).mul_(1.5)
    after = evaluate(lm, FACTS)
    assert abs(after.probability - prepared.before.probability) > 1e-6
    assert_allclose(evaluate(lm, FACTS, prepared=prepared).probability, after.probability, rtol=1e-5)
    with pytest.raises(ValueError, match="not the facts that the evaluation was prepared for"):
        evaluate(lm, FACTS[:1], prepared=prepared)
    with pytest.raises(ValueError, match="no facts"):
        evaluate(lm, [])


def test_entropy_by_hand():
    """ "a b a b a": bigrams ab, ba twice each; trigrams aba twice, bab once."""
    h3 = -(2 / 3) * log2(2 / 3) - (1 / 3) * log2(1 / 3)
    assert ngram_entropy("a b a b a") == pytest.approx((2 / 3 * 1 + 4 / 3 * h3) / 2)
    assert ngram_entropy("no no no no no no") == 0
    assert ngram_entropy("word") == 0
    assert ngram_entropy("a, b") == pytest.approx((2 / 3 * 1 + 0) / 2)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_greedy_text_is_the_argmax_of_one_row_without_a_cache(kind):
    lm = tiny(kind)
    prompts = ["The", "The capital of France is Paris. The capital of Italy is", "Steve Jobs founded"]
    for prompt, text in zip(prompts, generation.greedy(lm, prompts, 12), strict=True):
        ids = lm.tokenizer(prompt)["input_ids"]
        start = len(ids)
        for _ in range(12):
            ids.append(int(lm.model(tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == lm.tokenizer.eos_token_id:
                break
        assert text == lm.tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_sampled_text_depends_on_the_seed_and_not_on_the_batch(monkeypatch):
    lm = tiny("gpt2")
    prompts = ["The capital of", "Steve Jobs founded Apple. Bill Gates founded", "Water is"] * 2
    texts = generation.sample(lm, prompts, 10)
    assert texts == generation.sample(lm, prompts, 10)
    assert texts != generation.sample(lm, prompts, 10, seed=1)
    assert texts[:3] != texts[3:]
    assert generation.sample(lm, prompts, 10, top_k=1) == generation.greedy(lm, prompts, 10)
    monkeypatch.setattr(generation, "ROWS_AT_ONCE", 2)
    assert texts == generation.sample(lm, prompts, 10)


def test_samples_follow_the_distribution_of_the_top(monkeypatch):
    lm = tiny("gpt2", layers=1)
    monkeypatch.setattr(generation, "ROWS_AT_ONCE", 2000)
    logits = torch.full((1, len(lm.tokenizer)), -50.0)
    logits[0, 40:43] = torch.log(tensor([0.5, 0.3, 0.2]))
    monkeypatch.setattr(lm.model, "get_output_embeddings", lambda: lambda state: logits.expand(len(state), -1))
    texts = generation.sample(lm, ["The"] * 2000, 1, top_k=2)
    share = np.mean([text == lm.tokenizer.decode([40]) for text in texts])
    assert share == pytest.approx(0.5 / 0.8, abs=0.03)
    assert {lm.tokenizer.decode([i]) for i in (40, 41)} == set(texts)


def test_text_ends_before_the_end_of_text(monkeypatch):
    lm = tiny("gpt2")
    logits = torch.zeros(1, len(lm.tokenizer))
    logits[0, lm.tokenizer.eos_token_id] = 1
    monkeypatch.setattr(lm.model, "get_output_embeddings", lambda: lambda state: logits.expand(len(state), -1))
    assert generation.greedy(lm, ["The", "The capital"], 5) == ["", ""]
    with pytest.raises(ValueError, match="tokens is 0"):
        generation.greedy(lm, ["The"], 0)
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generation.greedy(lm, ["The", ""], 1)


def test_text_ends_before_any_of_the_models_ends(monkeypatch):
    """Llama-3 and Qwen2.5 have several; their generation settings list them, and the tokenizer has its own."""
    for listed in ([0, 5, 7], 5, [5]):
        lm = tiny("gpt2")
        lm.model.generation_config.eos_token_id = listed
        assert lm.tokenizer.eos_token_id == 0
        for end in {5, lm.tokenizer.eos_token_id}:
            logits = torch.zeros(1, len(lm.tokenizer))
            logits[0, end] = 1
            monkeypatch.setattr(lm.model, "get_output_embeddings", lambda row=logits: lambda x: row.expand(len(x), -1))
            assert generation.greedy(lm, ["The", "The capital"], 5) == ["", ""]
            assert generation.sample(lm, ["The"], 5, top_k=1) == [""]
    lm.model.generation_config.eos_token_id, lm.tokenizer.eos_token = None, None
    assert generation.end_tokens(lm) == set()


def test_contexts_hold_none_of_the_ends():
    """All are suppressed while a context is written, the tokenizer's own end too."""
    lm = tiny("gpt2")
    lm.model.generation_config.eos_token_id = [5]

    def prefer_the_end(module, args, logits):
        logits[..., [5, lm.tokenizer.eos_token_id]] += 1000
        return logits

    lm.model.lm_head.register_forward_hook(prefer_the_end)
    for text, start in zip(write_contexts(lm)[1:], STARTS, strict=True):
        assert text.startswith(start) and text != f"{start}. "


def test_generation_quality(monkeypatch):
    lm = tiny("gpt2")
    monkeypatch.setattr(
        generation, "sample", lambda lm, prompts, tokens, seed: [f" tower {i}" for i in range(len(prompts))]
    )
    references = {("P36", "Rome"): ["The city of France is tower 0", "France is tower 1"]}
    found = generation_quality(lm, FACTS, references=references)
    assert found.texts == (("The city of France is tower 0", "France is tower 1"), ("Hamlet is tower 2",))
    assert_allclose(found.per_fact["consistency"], [1, np.nan])
    assert found.per_fact["entropy"][1] == ngram_entropy("Hamlet is tower 2")
    other = generation_quality(lm, FACTS, references={("P36", "Rome"): ["quite", "different"]})
    assert other.consistency == 0
    assert np.isnan(generation_quality(lm, FACTS, references={}).consistency)


def test_facts_without_generation_prompts_have_no_entropy():
    lm, facts = tiny("gpt2"), [replace(fact, generation_prompts=()) for fact in FACTS]
    assert generation.greedy(lm, [], 5) == generation.sample(lm, [], 5) == []
    references = references_from(lm, facts, tokens=5)
    assert [*references.values()] == [[], []]
    for given in (None, {}, references, {("P36", "Rome"): ["a tower"]}):
        found = evaluate(lm, facts, generate=5, references=given)
        assert np.isnan(found.entropy) and found.texts == ((), ()) and found.efficacy >= 0
        assert "entropy" not in repr(found)
    assert np.isnan(evaluate(lm, [FRANCE, facts[1]], generate=5).per_fact["entropy"]).tolist() == [False, True]


def test_references_are_what_the_model_writes_about_what_is_true():
    lm = tiny("gpt2")
    italy = replace(FRANCE, subject="Italy", target_true="Rome", target_new="Paris", generation_prompts=("Italy is",))
    references = references_from(lm, [italy, HAMLET], tokens=5)
    assert references.keys() == {("P36", "Rome"), ("P50", "William Shakespeare")}
    (text,) = references["P36", "Rome"]
    assert text.startswith("Italy is")
    measured = evaluate(lm, FACTS, generate=5, references=references)
    assert 0 <= measured.consistency <= 1 and measured.entropy > 0 and len(measured.texts) == 2
    lm.edits.append("an edit")
    with pytest.raises(ValueError, match="take references from the unedited model"):
        references_from(lm, FACTS)


def test_a_model_that_predicts_nan_has_metrics_of_nan():
    """Not 0, which would be a finding."""
    lm = tiny("llama")
    lm.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.warns(UserWarning, match=r"not numbers \(nan\) at 6 of 6 prompts"):
        found = evaluate(lm, FACTS)
    for name, values in found.per_fact.items():
        assert np.isnan(values).all(), name
    with pytest.warns(UserWarning, match="not numbers"):
        assert np.isnan(prepare_evaluation(lm, FACTS, below=1).before.score)


def test_a_fact_at_which_the_model_predicts_nan_is_left_out_with_a_warning(monkeypatch):
    score = likelihood.score

    def broken(lm, queries):
        found = score(lm, queries)
        found.log_prob[1] = float("nan")  # P(true) at the question about France
        return found

    monkeypatch.setattr(likelihood, "score", broken)
    with pytest.warns(UserWarning, match=r"at 1 of 6 prompts, so their facts do not count"):
        found = evaluate(tiny("llama"), FACTS)
    for name in ("efficacy", "efficacy_magnitude", "top1"):
        assert np.isnan(found.per_fact[name]).tolist() == [True, False], name
