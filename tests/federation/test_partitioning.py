"""Partitions: their guarantees, counted again from the parts alone."""

import unicodedata
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from torch.testing import assert_close

import fleke_lib as fleke
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.partitioning import Part, partition
from fleke_lib.federation.retrieval.clusters import cluster
from fleke_lib.federation.retrieval.topics import main_topics, question_embeddings
from tests.tiny import tiny

ATLAS = fleke.load_facts("atlas")


def fact(relation: str, number: int, answers: int = 5) -> Fact:
    return Fact(f"{relation} {number}", "{} is", f"new {number % answers}", f"true {number % answers}", relation)


def some(*sizes: int) -> list[Fact]:
    """Facts of one relation after the other, of these sizes."""
    return [fact(f"r{i}", number) for i, size in enumerate(sizes) for number in range(size)]


def holdings(parts: tuple[Part, ...]) -> list[tuple[int, int, Fact]]:
    """(client, slot, fact) of everything that is edited."""
    return [(c, t, fact) for c, part in enumerate(parts) for t, slot in enumerate(part.slots) for fact in slot]


def repeated(parts: tuple[Part, ...]) -> int:
    """Holdings of which another client has the same question and answer at an earlier slot, pair by pair."""
    every = [(c, t, fact.question, fact.target_new) for c, t, fact in holdings(parts)]
    return sum(any(c != d and s < t and (q, a) == (p, b) for d, s, p, b in every) for c, t, q, a in every)


@st.composite
def asked(draw):
    """Facts and arguments that can be met."""
    clients, slots = draw(st.integers(3, 5)), draw(st.integers(2, 4))
    sizes = draw(st.lists(st.integers(2 * slots, 12), min_size=clients, max_size=8))
    by = draw(st.sampled_from(["relation", "dirichlet"]))
    more = {"overlap": draw(st.floats(0, 0.3)), "conflicts": draw(st.floats(0, 0.3)), "seed": draw(st.integers(0, 99))}
    return some(*sizes), {"clients": clients, "slots": slots, "by": by, **more}


@given(asked())
@settings(max_examples=60)
def test_every_promise_holds(given):
    facts, arguments = given
    parts = partition(facts, **arguments)
    every = holdings(parts)

    assert parts == partition(facts, **arguments)
    assert [part.name for part in parts] == [f"client {i}" for i in range(arguments["clients"])]
    assert {fact for _, _, fact in every} >= set(facts)
    assert all(len(part.slots) == arguments["slots"] and all(part.slots) for part in parts)
    for part in parts:
        assert part.facts == tuple(fact for slot in part.slots for fact in slot)
        assert max(Counter(fact.question for fact in part.facts).values()) == 1  # no client contradicts itself

    wanted, known = len(every), repeated(parts)
    assert abs(known / wanted - arguments["overlap"]) <= 1 / wanted
    variants = [fact for _, _, fact in every if fact not in facts]
    assert len(variants) == round(arguments["conflicts"] * len(facts))
    assert known + len(facts) + len(variants) == wanted  # nobody repeats at the same slot or an earlier one
    assert not repeated([replace(part, slots=part.slots[:1]) for part in parts])

    asked_again = Counter(fact.question for fact in variants)
    assert not variants or max(asked_again.values()) == 1
    original = {fact.question: fact for fact in facts}
    for variant in variants:
        truth = original[variant.question]
        assert replace(variant, target_new=truth.target_new) == truth
        assert variant.target_new not in (truth.target_new, truth.target_true)
        assert variant.target_new in {fact.target_new for fact in facts if fact.relation == truth.relation}


@given(st.lists(st.integers(1, 15), min_size=3, max_size=12), st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=60)
def test_by_relation_two_clients_halve_a_topic_and_sizes_are_near(sizes, clients, seed):
    facts = some(*sizes)
    try:
        parts = partition(facts, clients, slots=1, seed=seed)
    except ValueError:
        assume(False)
    for i, size in enumerate(sizes):
        counts = [sum(fact.relation == f"r{i}" for fact in part.facts) for part in parts]
        assert sorted(count for count in counts if count) == sorted(half for half in (size // 2, -(-size // 2)) if half)
    held = [len(part.facts) for part in parts]
    assert sum(held) == len(facts)
    assert max(held) - min(held) <= -(-max(sizes) // 2)


@pytest.mark.parametrize("by", ["relation", "dirichlet"])
def test_the_atlas_over_eight_clients_and_ten_slots(by):
    parts = partition(ATLAS, by=by)
    assert Counter(fact for part in parts for fact in part.facts) == Counter(ATLAS)
    for part in parts:
        sizes = [len(slot) for slot in part.slots]
        assert max(sizes) - min(sizes) <= 1 <= min(sizes)


def test_seeds_differ_and_further_holdings_leave_the_base_as_it_is():
    base, other = partition(ATLAS), partition(ATLAS, seed=1)
    assert base != other
    more = partition(ATLAS, overlap=0.4, conflicts=0.1)
    for part, richer in zip(base, more, strict=True):
        for slot, richer_slot in zip(part.slots, richer.slots, strict=True):
            assert richer_slot[: len(slot)] == slot


def test_repeated_facts_are_dealt_evenly_and_of_the_clients_own_topics():
    base, more = partition(ATLAS), partition(ATLAS, overlap=0.3)
    extra = [len(m.facts) - len(b.facts) for b, m in zip(base, more, strict=True)]
    assert max(extra) - min(extra) <= 1
    for part, richer in zip(base, more, strict=True):
        assert set(richer.facts) - set(part.facts) <= set(part.relevant)  # there are enough of them at this overlap


def test_relevant_facts_are_those_of_the_main_topics_that_others_hold():
    facts = some(*[20] * 4, *[4] * 4)
    parts = partition(facts, 4, slots=2, overlap=0.2, conflicts=0.2, seed=3)
    base = partition(facts, 4, slots=2, seed=3)
    for part, first in zip(parts, base, strict=True):
        main = main_topics([fact.relation for fact in first.facts])
        questions = {fact.question for fact in part.facts}
        assert part.relevant == tuple(f for f in facts if f.relation in main and f.question not in questions)


@pytest.mark.parametrize(
    "topics, main",
    [
        ("aaaabbbbc", "ab"),  # 8 of 9 are more than 80%
        ("aaaaaaaabb", "a"),  # exactly 80%
        ("aaaaaaabbc", "ab"),
        ("aaabbbcccddd", "abcd"),
        ("aaaaaaabcd", "abcd"),  # equally large ones come in together
        ("", ""),
    ],
)
def test_main_topics(topics, main):
    assert main_topics(list(topics)) == main_topics(list(topics)[::-1]) == set(main)


def shares(alpha: float, seeds: int) -> np.ndarray:
    """(relations, clients): each client's share of each relation, over many draws."""
    found = []
    for seed in range(seeds):
        parts = partition(some(*[40] * 12), 4, "dirichlet", slots=1, alpha=alpha, seed=seed)
        counts = [Counter(fact.relation for fact in part.facts) for part in parts]
        found += [[count[f"r{i}"] / 40 for count in counts] for i in range(12)]
    return np.array(found)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_dirichlet_shares_have_the_moments_of_the_distribution(alpha):
    """E p = 1/K and E sum p^2 = (alpha + 1) / (K alpha + 1), for K = 4 clients; 720 draws."""
    drawn = shares(alpha, 60)
    assert_close(drawn.mean(0), np.full(4, 0.25), atol=0.05, rtol=0)  # 4 standard errors at alpha 0.3
    assert abs((drawn**2).sum(1).mean() - (alpha + 1) / (4 * alpha + 1)) < 0.03


def test_dirichlet_at_its_two_ends():
    even = shares(1e6, 1)
    assert even.min() >= 9 / 40 and even.max() <= 11 / 40
    assert (shares(1e-3, 5).max(1) == 1).mean() > 0.9


def test_dirichlet_leaves_no_client_without_a_fact_a_slot():
    parts = partition(some(*[10] * 8), 8, "dirichlet", slots=10, alpha=1e-6)
    assert all(len(slot) == 1 for part in parts for slot in part.slots)


def test_topics_without_a_relation_are_prompts():
    facts = [replace(fact, relation="", prompt=f"{fact.relation} of {{}} is") for fact in some(8, 8, 8)]
    parts = partition(facts, 3, slots=2, conflicts=0.5)
    held = {
        prompt: sum(any(f.prompt == prompt for f in p.facts) for p in parts) for prompt in {f.prompt for f in facts}
    }
    assert all(2 <= clients <= 3 for clients in held.values())


@torch.no_grad()
def test_question_embeddings_are_means_of_states_one_text_at_a_time():
    lm, facts = tiny("llama"), ATLAS[::30]
    found = {layer: question_embeddings(lm, facts, layer) for layer in (0, 2, 3)}
    for i, text in enumerate(fact.question for fact in facts):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        states = lm.model(ids, output_hidden_states=True).hidden_states
        for layer in (0, 2):
            assert_close(found[layer][i], states[layer + 1][0, 1:].mean(0), atol=1e-4, rtol=1e-4)
    assert_close(question_embeddings(lm, facts), found[2])
    assert found[3].shape == (len(facts), lm.d_model)
    assert question_embeddings(lm, []).shape == (0, lm.d_model)
    with pytest.raises(ValueError, match="layer 4 does not exist"):
        question_embeddings(lm, facts, 4)


def test_a_question_of_one_token_keeps_it():
    lm = tiny("gpt2")  # puts nothing before a text
    (embedding,) = question_embeddings(lm, [Fact("a", "{}", "new", "true")], 1)
    assert embedding.isfinite().all() and embedding.norm() > 0


def test_spectral_topics_belong_to_two_clients_and_follow_the_questions():
    lm, facts = tiny("llama"), ATLAS[::4]
    parts = partition(facts, 4, "spectral", slots=5, overlap=0.2, lm=lm, seed=1)
    assert parts == partition(facts, 4, "spectral", slots=5, overlap=0.2, lm=lm, seed=1)
    base = partition(facts, 4, "spectral", slots=5, lm=lm, seed=1)
    assert Counter(fact for part in base for fact in part.facts) == Counter(facts)

    states = question_embeddings(lm, facts)
    topics = dict(zip(facts, cluster(states - states.mean(0), 8, "spectral", 1).tolist(), strict=True))
    owners = {topic: [i for i, p in enumerate(base) if any(topics[f] == topic for f in p.facts)] for topic in range(8)}
    assert all(len(two) == 2 for two in owners.values())
    sizes = [len(part.facts) for part in base]
    assert max(sizes) - min(sizes) <= -(-max(Counter(topics.values()).values()) // 2)


def test_spectral_clusters_of_questions_find_the_relations_again():
    """Even a model of random weights tells questions apart by their words."""
    facts = [fact for fact in ATLAS if fact.relation in ("P36", "P30", "P246", "P103", "P50")]
    states = question_embeddings(tiny("llama"), facts)
    labels = cluster(states - states.mean(0), 5, "spectral").tolist()
    assert adjusted_rand_score([fact.relation for fact in facts], labels) > 0.8


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"by": "colour"}, "cannot be spread by 'colour': give one of relation, spectral, dirichlet"),
        ({"by": "spectral"}, "no model was given: give lm="),
        ({"clients": 1}, "clients=1 and slots=2 are too few"),
        ({"slots": 0}, "clients=2 and slots=0 are too few"),
        ({"overlap": 1.0}, "overlap=1.0 is no share"),
        ({"overlap": -0.1}, "overlap=-0.1 is no share"),
        ({"overlap": float("nan")}, "overlap=nan is no share"),
        ({"overlap": 0.9}, "needs 180 repeated holdings, but only 10 facts are open"),
        ({"slots": 1, "overlap": 0.1}, "needs 2 repeated holdings, but only 0 facts are open"),
        ({"conflicts": 1.5}, "conflicts=1.5 is no share"),
        ({"alpha": 0.0}, "alpha=0.0 is no parameter"),
        ({"slots": 11}, "20 facts are fewer than one for each of 2 clients in each of 11 slots: give at least 22"),
        ({"clients": 5}, "2 topics, each of two clients, leave one of 5 clients with 0 facts for 2 slots"),
    ],
)
def test_what_cannot_be_met_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        partition(some(10, 10), **{"clients": 2, "slots": 2, **arguments})


def test_a_question_that_occurs_twice_is_refused():
    with pytest.raises(ValueError, match="'r0 0 is' occurs twice"):
        partition([*some(10, 10), replace(fact("r0", 0), target_new="else")], 2, slots=2)


def test_texts_are_compared_in_one_unicode_form():
    facts = [replace(fact("r0", i), subject=f"é{i}", target_new="Perú", target_true="Curaçao") for i in range(20)]
    once_more = replace(facts[0], subject=unicodedata.normalize("NFD", facts[0].subject), target_new="else")
    with pytest.raises(ValueError, match="occurs twice"):
        partition([*facts, once_more], 2, slots=2)
    facts[1:3] = [
        replace(facts[1], target_new=unicodedata.normalize("NFD", "Perú")),
        replace(facts[2], target_new=unicodedata.normalize("NFD", "Curaçao"), target_true="Chile"),
    ]
    with pytest.raises(ValueError, match="the relations of only 1 have one to give"):  # the others' truth, or the same
        partition(facts, 2, slots=2, conflicts=0.5, by="dirichlet")


def test_conflicts_need_other_answers():
    facts = [fact("r0", i, answers=1) for i in range(10)] + [fact("r1", i) for i in range(10)]
    assert len(holdings(partition(facts, 2, slots=2, conflicts=0.5))) == 30
    with pytest.raises(ValueError, match="11 facts should have a conflicting answer, but the relations of only 10"):
        partition(facts, 2, slots=2, conflicts=0.55)


def test_a_part_shows_its_sizes():
    assert repr(Part("client 0", ((fact("r", 1),), ()), (fact("r", 2),))) == (
        "Part(client 0: 1 facts, in slots 1, 0; 1 relevant elsewhere)"
    )
