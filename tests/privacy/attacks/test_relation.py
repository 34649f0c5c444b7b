"""Spreads compared with dense matrices, templates with packets made from them, linkage with cases done by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fleke_lib.model.activations import record
from fleke_lib.privacy.attacks.rates import ranks, rate
from fleke_lib.privacy.attacks.relation import (
    bystanders,
    cosine,
    linked,
    linked_interval,
    nearest,
    overlap,
    template_scores,
)
from tests.privacy.attacks.cases import TEMPLATES, published
from tests.tiny import tiny


def rows(n: int, m: int, seed: int) -> torch.Tensor:
    return torch.randn(n, m, 7, generator=torch.Generator().manual_seed(seed))


def test_the_overlap_is_the_cosine_of_the_spreads_as_matrices():
    ours, theirs = rows(3, 4, 0), rows(5, 2, 1)
    found = overlap(ours, theirs)
    for i in range(3):
        for j in range(5):
            D, E = (x.double().T @ x.double() for x in (ours[i], theirs[j]))
            assert float(found[i, j]) == pytest.approx(float((D * E).sum() / (D.norm() * E.norm())))
    assert overlap(torch.zeros(1, 2, 7), theirs).tolist() == [[0.0] * 5]
    assert torch.allclose(overlap(ours, ours).diagonal(), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_templates_words_are_all_but_the_first_token_and_the_subjects(kind):
    lm = tiny(kind)
    templates = ["The capital of {} is", "{} is in", "People there speak of {}, which is called"]
    found = bystanders(lm, templates, 1, "France")
    for keys, template in zip(found, templates, strict=True):
        before, _, after = template.partition("{}")
        ids = lm.tokenizer(template.replace("{}", "France")).input_ids
        first = len(lm.tokenizer(before.rstrip()).input_ids) if before else len(lm.tokenizer("").input_ids)
        last = len(lm.tokenizer(before + "France").input_ids)
        with record(inputs={"k": lm.projection(1)}) as seen:
            lm.model(input_ids=torch.tensor([ids]))
        own = seen["k"][0, [t for t in range(1, len(ids)) if not first <= t < last]]
        assert torch.allclose(keys[: len(own)], own, atol=1e-5)
        assert not keys[len(own) :].any()
        assert after


def test_a_packet_whose_axes_are_a_templates_words_is_named_first_and_no_other():
    lm = tiny("llama")
    words = bystanders(lm, TEMPLATES, 2, "Japan")
    mixing = torch.linalg.qr(rows(1, 7, 3)[0])[0]  # axes are other rows with the same spread
    packets = [
        SimpleNamespace(layers=(1, 2), axes={2: mixing[:, : keys.shape[0]] @ keys if keys.shape[0] <= 7 else keys})
        for keys in words
    ]
    width = max(len(packet.axes[2]) for packet in packets)
    assert {len(packet.axes[2]) for packet in packets} == {width}
    places = ranks(template_scores(lm, packets, TEMPLATES), torch.arange(len(TEMPLATES)))
    assert places.tolist() == [1] * len(TEMPLATES)
    others = ranks(template_scores(lm, packets, TEMPLATES), torch.arange(len(TEMPLATES)).roll(1))
    assert 1 not in others.tolist()


def test_real_packets_betray_their_template_more_often_than_chance():
    lm, facts, _, _, packets = published()
    truth = torch.tensor([TEMPLATES.index(fact.prompt) for fact in facts])
    found = rate(ranks(template_scores(lm, packets, TEMPLATES), truth), len(TEMPLATES))
    assert found.interval[0] > found.chance
    mixed = rate(ranks(template_scores(lm, packets, TEMPLATES), truth.roll(11)), len(TEMPLATES))
    assert mixed.share < found.share


def test_the_nearest_packet_is_compared_by_its_label_and_lone_labels_are_left_out():
    alike = torch.tensor([[9, 1, 3, 2], [4, 9, 1, 2], [0, 5, 9, 1], [5, 1, 1, 9]], dtype=torch.float64)
    found = nearest(alike, ["a", "a", "b", "a"])
    assert (found.hits, found.n) == (2, 3)  # 0 is nearest to 2, 1 to 0, 3 to 0
    assert found.chance == pytest.approx(2 / 3)
    assert nearest(alike, ["a", "b", "a", "b"]).chance == pytest.approx(1 / 3)


def test_pairs_of_one_client_are_told_apart_by_what_links_them_and_only_beyond_the_topic():
    topics = ["x", "x", "y", "y"] * 10
    clients = ["ada", "bob"] * 20
    generator = torch.Generator().manual_seed(0)
    topic = torch.tensor([[float(a == b) for b in topics] for a in topics])
    noise = torch.rand(40, 40, generator=generator)
    noise = noise + noise.T
    assert linked(topic + 0.01 * noise, topics) == 1
    assert linked(topic, clients) == pytest.approx(0.5, abs=0.05)
    client = torch.tensor([[float(a == b) for b in clients] for a in clients])
    assert linked(topic + client, clients, among=topics) == 1
    assert 0.4 < linked(topic + noise, clients, among=topics) < 0.6
    with pytest.raises(ValueError, match="pairs have the same label"):
        linked(topic, topics, among=topics)


def drawn(seed: int, trace: float, n: int = 40):
    """Likeness of n packets of two clients with three topics: scores of pairs, and `trace` more for the same client."""
    generator = torch.Generator().manual_seed(seed)
    clients, topics = (torch.randint(0, m, (n,), generator=generator) for m in (2, 3))
    own = torch.randn(n, 5, generator=generator)  # what packets have in common makes pairs depend on each other
    own[:, 0] += trace * (2 * clients - 1)
    return (own @ own.T).round(decimals=1) + 5.0 * (topics[:, None] == topics), clients.tolist(), topics.tolist()


def test_the_interval_of_the_auc_is_that_of_samples_of_packets_written_out():
    alike, clients, topics = drawn(0, 0.5, 25)
    generator, found = np.random.default_rng(3), []
    for _ in range(200):
        times = generator.multinomial(25, np.full(25, 1 / 25))
        chosen = np.repeat(np.arange(25), times)
        pairs = [(i, j) for a, i in enumerate(chosen) for j in chosen[a + 1 :] if i != j and topics[i] == topics[j]]
        linking = [float(alike[i, j]) for i, j in pairs if clients[i] == clients[j]]
        others = [float(alike[i, j]) for i, j in pairs if clients[i] != clients[j]]
        found.append(np.mean([(a > b) + 0.5 * (a == b) for a in linking for b in others]))
    low, high = linked_interval(alike, clients, among=topics, draws=200, seed=3)
    assert (low, high) == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])), abs=1e-9)
    assert low < linked(alike, clients, among=topics) < high


def test_the_interval_of_the_auc_nearly_always_holds_a_half_without_a_trace_and_not_with_one():
    for trace, expected in ((0.0, range(36, 41)), (1.5, range(3))):
        held = 0
        for seed in range(40):
            alike, clients, topics = drawn(seed, trace)
            low, high = linked_interval(alike, clients, among=topics, draws=100)
            held += low <= 0.5 <= high
        assert held in expected


def test_an_interval_of_pairs_that_are_all_alike_is_refused():
    with pytest.raises(ValueError, match="pairs have the same label"):
        linked_interval(torch.rand(4, 4), ["ada"] * 4)


def test_cosines_are_centred():
    vectors = rows(1, 6, 5)[0] + 100
    found = cosine(vectors)
    centred = vectors.double() - vectors.double().mean(0)
    assert float(found[0, 1]) == pytest.approx(float(torch.cosine_similarity(centred[0], centred[1], dim=0)))
