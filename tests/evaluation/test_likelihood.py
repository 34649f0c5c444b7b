"""Likelihoods against the simplest computation: one text at a time, through the whole model, with full logits."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fleke_lib.evaluation import likelihood
from fleke_lib.evaluation.likelihood import log_probs
from tests.tiny import KINDS, tiny, with_vision_tower

QUERIES = [
    ("The capital of France is", "Paris"),
    ("The capital of France is", "Rome"),
    ("The capital of France is", "Johann Wolfgang von Goethe"),
    ("The capital of France is Johann", "Wolfgang von Goethe"),
    ("The author of Hamlet is", "William Shakespeare"),
    ("Water is made of", "hydrogen and oxygen, as the chemical symbol for it tells us"),
    ("The", "time"),
    ("The capital of France is", "Paris"),
]
PROMPTS, TARGETS = map(list, zip(*QUERIES, strict=True))


@torch.no_grad()
def plain(lm, prompt: str, target: str) -> tuple[float, float]:
    """Mean log-probability and accuracy of a target's tokens: those that the text has more than the prompt."""
    ids, start = lm.tokenizer(f"{prompt} {target}")["input_ids"], len(lm.tokenizer(prompt)["input_ids"])
    logits = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    steps = [(logits[i - 1], ids[i]) for i in range(start, len(ids))]
    hits = [float(row.argmax() == token) for row, token in steps]
    return sum(float(row[token]) for row, token in steps) / len(steps), sum(hits) / len(hits)


def nudge(lm, layer: int) -> None:
    with torch.no_grad():
        lm.weight(layer).add_(torch.randn(lm.weight(layer).shape, generator=torch.Generator().manual_seed(1)) * 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_one_text_at_a_time(kind):
    lm = tiny(kind)
    found = likelihood.score(lm, likelihood.plan(lm, PROMPTS, TARGETS))
    log_prob, accuracy = zip(*(plain(lm, *query) for query in QUERIES), strict=True)
    assert_close(found.log_prob, torch.tensor(log_prob), atol=1e-4, rtol=0)
    assert_close(found.accuracy, torch.tensor(accuracy))
    assert_close(found.probability, torch.tensor(log_prob).exp(), atol=1e-4, rtol=0)
    assert found.tokens.tolist() == [
        len(lm.tokenizer(f"{p} {t}")["input_ids"]) - len(lm.tokenizer(p)["input_ids"]) for p, t in QUERIES
    ]


def test_texts_longer_than_the_window_of_a_model_with_a_vision_tower():
    """Its attention window lies in the configuration of its language model."""
    text = tiny("gemma3_text")
    prompts = [f"The capital of France is Paris. The capital of Italy is Rome. The capital of {x}" for x in ("A", "B")]
    wanted = torch.tensor([plain(text, prompt, "is Tokyo")[0] for prompt in prompts])
    assert_close(log_probs(with_vision_tower(text), prompts, ["is Tokyo"] * 2), wanted, atol=1e-4, rtol=0)


def test_accuracy_counts_tokens_that_are_the_argmax(monkeypatch):
    lm = tiny("gpt2")
    (the,) = lm.tokenizer(" the")["input_ids"]
    bonus = torch.zeros(len(lm.embeddings.weight)).index_fill_(0, torch.tensor(the), 100.0)
    real = lm.model.get_output_embeddings()
    monkeypatch.setattr(lm.model, "get_output_embeddings", lambda: lambda state: real(state) + bonus)
    targets = ["the", "the the", "of the the of", "of"]
    scores = likelihood.score(lm, likelihood.plan(lm, ["The capital of France is"] * 4, targets))
    assert scores.accuracy.tolist() == [1, 1, 0.5, 0]
    assert scores.top1.tolist() == [True, True, False, False]
    assert scores.tokens.tolist() == [1, 2, 4, 1]


@pytest.mark.parametrize("at_once", [1, 40, 10_000])
def test_the_batches_make_no_difference(monkeypatch, at_once):
    lm = tiny("llama")
    expected = log_probs(lm, PROMPTS, TARGETS)
    monkeypatch.setattr(likelihood, "TOKENS_AT_ONCE", {"cpu": at_once})
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 3 * len(lm.embeddings.weight))
    assert_close(log_probs(lm, PROMPTS, TARGETS), expected, atol=1e-5, rtol=0)
    order = [5, 0, 3]
    alone = log_probs(lm, [PROMPTS[i] for i in order], [TARGETS[i] for i in order])
    assert_close(alone, expected[order], atol=1e-5, rtol=0)


def test_nothing_to_score():
    assert log_probs(tiny("gpt2"), [], []).shape == (0,)


def test_shared_beginnings_run_once():
    lm = tiny("gpt2")
    prompt, of_one_token = "The capital of France is", [" of", " is", " the"]
    ids = tuple(lm.tokenizer(prompt)["input_ids"])
    assert all(len(lm.tokenizer(word)["input_ids"]) == 1 for word in of_one_token)
    (tree,) = likelihood.plan(lm, [prompt] * 3, [word.strip() for word in of_one_token]).trees
    assert (tree.ids, tree.mask(torch.float32)) == (ids, None)
    longer = tuple(lm.tokenizer(f"{prompt} the author of Faust")["input_ids"])[:-1]
    (tree,) = likelihood.plan(lm, [prompt] * 4, ["of", "is", "the", "the author of Faust"]).trees
    assert tree.ids == longer
    (tree,) = likelihood.plan(lm, [prompt, "The capital of Italy is"], ["the", "the"]).trees
    other = lm.tokenizer(" Italy is")["input_ids"]
    assert len(tree.ids) == len(ids) + len(other)


GPT2 = tiny("gpt2")
WORDS = ["Paris", "Rome", "capital", "of", "the", "is", "a", "city", "Goethe", "café"]
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)


@given(st.lists(st.tuples(words, words), max_size=12), st.integers(1, 60), st.sampled_from([6.0, float("inf")]))
def test_every_query_is_answered_behind_its_own_tokens(pairs, size, window):
    lm = GPT2
    prompts, targets = [" ".join(p) for p, _ in pairs], [" ".join(t) for _, t in pairs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "TOKENS_AT_ONCE", {"cpu": size})
        patch.setattr(likelihood, "_window", lambda lm: window)
        found = likelihood.plan(lm, prompts, targets)
    for prompt, target, query in zip(prompts, targets, found.queries, strict=True):
        ids, start = lm.tokenizer(f"{prompt} {target}")["input_ids"], len(lm.tokenizer(prompt)["input_ids"])
        assert query.target == tuple(ids[start:])
        tree = found.trees[query.tree]
        for i, node in enumerate(query.nodes, start):
            assert path(tree, node) == ids[:i]
            assert tree.depths[node] == i - 1
    for tree in found.trees:
        beginnings = [tuple(path(tree, node)) for node in range(len(tree.ids))]
        assert len(set(beginnings)) == len(beginnings)
        assert all(len(own) <= size for own in [tree.ids] if tree.mask(torch.float32) is not None)
        assert max(tree.depths) < window or tree.mask(torch.float32) is None


def path(tree, node: int) -> list[int]:
    """The token ids from the root to a node."""
    above = path(tree, tree.parents[node]) if tree.parents[node] >= 0 else []
    return [*above, tree.ids[node]]


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_scores_follow_an_edit_above(kind):
    lm = tiny(kind)
    prepared = likelihood.prepare(lm, PROMPTS, TARGETS, below=2)
    before = log_probs(lm, PROMPTS, TARGETS)
    assert_close(prepared.scores.log_prob, before, atol=1e-5, rtol=0)
    nudge(lm, 2)
    nudge(lm, 3)
    after = log_probs(lm, PROMPTS, TARGETS)
    assert (after - before).abs().max() > 0.01
    assert_close(likelihood.score(lm, prepared).log_prob, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [2.0, 2.0**8, -1.0])
def test_prepared_scores_refuse_weights_below_that_are_all_multiplied(factor):
    """Multiplying by a power of two adds one number to the bits of every weight, and adds up to nothing modulo 2^32."""
    lm = tiny("llama")
    prepared = likelihood.prepare(lm, PROMPTS, TARGETS, below=2)
    lm.weight(1).mul_(factor)
    with pytest.raises(ValueError, match="changed below layer 2"):
        likelihood.score(lm, prepared)


def test_prepared_scores_refuse_an_edit_below():
    lm = tiny("llama")
    prepared = likelihood.prepare(lm, PROMPTS, TARGETS, below=2)
    original = copy.deepcopy(lm.weight(1))
    nudge(lm, 1)
    with pytest.raises(ValueError, match="changed below layer 2"):
        likelihood.score(lm, prepared)
    with torch.no_grad():
        lm.weight(1).copy_(original)
    likelihood.score(lm, prepared)


def test_layer_zero_can_be_prepared():
    lm = tiny("gpt_neox")
    prepared = likelihood.prepare(lm, PROMPTS, TARGETS, below=0)
    nudge(lm, 0)
    assert_close(likelihood.score(lm, prepared).log_prob, log_probs(lm, PROMPTS, TARGETS), atol=1e-5, rtol=0)


def test_bad_input_says_what_to_do():
    lm = tiny("gpt2")
    with pytest.raises(ValueError, match="2 prompts and 1 targets: give one target per prompt"):
        log_probs(lm, ["a", "b"], ["c"])
    with pytest.raises(ValueError, match="target 1 is empty"):
        log_probs(lm, ["a", "b"], ["c", ""])
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        likelihood.prepare(lm, ["a"], ["b"], below=9)
