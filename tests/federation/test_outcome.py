"""Each client's facts on its own model, compared with separate evaluations; costs; separation."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fleke_lib.edit import trajectory
from fleke_lib.evaluation.metrics import evaluate
from fleke_lib.federation.outcome import outcome, own, pooled, wanted
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.cost import costs
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.relevance import found_by
from fleke_lib.federation.retrieval.policies import Everyone, Nobody, TopK
from fleke_lib.federation.retrieval.representations import represent
from fleke_lib.federation.retrieval.separation import separation
from fleke_lib.federation.rounds import run_fedit
from tests.federation.small import LAYERS, facts, scenario

PARTS = partition(facts(), 3, slots=2, seed=1)


def test_each_client_is_asked_with_its_own_edit():
    lm, provider, moments = scenario()
    edits = {
        part.name: trajectory([prepared.trajectory for prepared in provider(part.facts)], moments) for part in PARTS
    }
    found = outcome(lm, edits, own(PARTS))
    expected = []
    for part in PARTS:
        with edits[part.name].applied(lm):
            expected.append(evaluate(lm, part.facts))
    for name in ("efficacy", "probability", "top1"):
        by_hand = np.concatenate([e.per_fact[name] for e in expected])
        np.testing.assert_allclose(found.per_fact[name], by_hand, atol=1e-6)
    assert found.facts == tuple(fact for part in PARTS for fact in part.facts)
    assert not lm.edits


def test_clients_with_one_edit_are_measured_together(monkeypatch):
    lm, provider, moments = scenario()
    edit, calls = trajectory([prepared.trajectory for prepared in provider(facts())], moments), []
    monkeypatch.setattr(
        "fleke_lib.federation.outcome.evaluate", lambda lm, asked: calls.append(len(asked)) or evaluate(lm, asked)
    )
    together = outcome(lm, dict.fromkeys(own(PARTS), edit), wanted(PARTS))
    assert calls == [len(facts())]
    with edit.applied(lm):
        apart = pooled([evaluate(lm, asked) for asked in wanted(PARTS).values()])
    np.testing.assert_allclose(together.per_fact["probability"], apart.per_fact["probability"], atol=1e-6)
    with pytest.raises(ValueError, match="client 0"):
        outcome(lm, {}, own(PARTS))
    one = {"client 0": facts()[:2], "client 1": ()}
    assert len(outcome(lm, dict.fromkeys(one, edit), one).facts) == 2
    with pytest.raises(ValueError, match="asks anything"):
        outcome(lm, dict.fromkeys(one, edit), dict.fromkeys(one, ()))


def test_costs_are_those_of_real_packets():
    lm, provider, _ = scenario()
    run = run_fedit(lm, PARTS, Nobody(), provider=provider, secret=b"the clients' own")
    sizes = costs(facts(), lm.d_model, lm.d_mlp, LAYERS, Compression())
    assert {len(packet.data) for packet in run.packets.values()} == {sizes["packet"]}
    assert sizes["MKV alone"] == 4 * lm.d_model and sizes["weight update"] == len(LAYERS) * 4 * lm.d_model * lm.d_mlp
    assert sizes["low-rank update"] == len(LAYERS) * (lm.d_model + lm.d_mlp)
    one = facts()[0]
    assert costs([one], 8, 8, (0,))["text"] == len(one.subject) + len(one.prompt) + len(one.target_new)


def test_separation_by_plain_loops():
    vectors = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    labels = ["a", "b", "c"] * 4
    found = separation(vectors, labels)
    within, between, hits = [], [], 0
    for i in range(12):
        cosines = [float(torch.cosine_similarity(vectors[i], vectors[j], dim=0)) for j in range(12)]
        for j in range(i + 1, 12):
            (within if labels[i] == labels[j] else between).append(cosines[j])
        cosines[i] = -9.0
        hits += labels[int(np.argmax(cosines))] == labels[i]
    np.testing.assert_allclose(sorted(found.within), sorted(within), atol=1e-6)
    np.testing.assert_allclose(sorted(found.between), sorted(between), atol=1e-6)
    assert found.nearest == pytest.approx(hits / 12)
    truth = [1] * len(within) + [0] * len(between)
    assert found.auc == pytest.approx(roc_auc_score(truth, within + between))
    assert found.over(0.1) == pytest.approx([np.mean(np.array(w) > 0.1) for w in (within, between)])


def test_what_a_policy_finds_is_what_a_run_adopts():
    lm, provider, _ = scenario()
    mkvs = dict(zip(facts(), [prepared.mkv for prepared in provider(facts())], strict=True))
    run = run_fedit(lm, PARTS, Everyone(), provider=provider, secret=b"the clients' own")
    found = found_by(Everyone(), PARTS, mkvs)
    by_run = [run.retrieval(part.name) for part in PARTS]
    for name in ("adopted", "relevant", "both", "offered"):
        assert getattr(found, name) == sum(getattr(one, name) for one in by_run)
    few = found_by(TopK(1), PARTS, mkvs, "residual")
    assert 0 < few.adopted < found.adopted
    z, h = (torch.stack([getattr(mkv, name) for mkv in mkvs.values()]) for name in ("z", "h"))
    assert separation(represent("raw", z, h), [fact.relation for fact in facts()]).auc > 0
