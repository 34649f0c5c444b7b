"""The experiments behind claims, on a tiny federation where results can be counted by hand and faults are detected."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fleke_lib.course.scale import NAMES, Scale
from fleke_lib.edit import trajectory
from fleke_lib.evaluation import evaluate
from fleke_lib.facts.fact import Fact, Neighbour
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation import weights
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.outcome import wanted
from fleke_lib.federation.packets.packet import pack
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.provider import VectorProvider
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.reproduce import experiments, sweeps
from fleke_lib.reproduce.measure import scenarios
from fleke_lib.reproduce.scenarios.sampling import TUNED_ON, digest, draw, samples, shared
from fleke_lib.reproduce.scenarios.scenario import Scenario, gap
from fleke_lib.reproduce.sweeps import SWEEPS, Swept, named, sweep
from tests.federation.small import facts, scenario


def small(**changes) -> Scenario:
    lm, _, moments = scenario()
    other = (Neighbour("People in Zürich say", "Paris"),)
    asked = [replace(fact, paraphrases=(f"Of {fact.subject} it is",), neighbours=other) for fact in facts()]
    made = Scenario(lm, tuple(asked), moments, **{"clients": 3, "slots": 2} | changes)
    made.__dict__["provider"] = provider(lm)
    return made


def provider(lm) -> VectorProvider:
    """Each fact by itself, so that providers which know nothing of each other compute the same bits."""
    return VectorProvider(lm, lambda missing: compute_mkvs(lm, missing))


@pytest.fixture(scope="module")
def here() -> Scenario:
    return small()


def test_the_edit_is_of_everybodys_packets(here):
    tags = Tags(b"the clients' own")
    packets = []
    for part in here.parts:
        for slot, some in enumerate(part.slots):
            for fact, made in zip(some, here.provider(some), strict=True):
                names = {"question": tags.question(fact), "answer": tags.answer(fact)}
                packets.append(pack(made.trajectory, made.mkv, part.name, slot, names))
    assert {packet.id for packet in packets} == set(here.everyone.packets)
    assert gap(here.fedit, trajectory(packets, here.moments)) < 1e-9


def test_distances_are_zero_for_equal_bits_alone(here):
    assert gap(here.fedit, here.fedit) == 0.0 and 0 < gap(here.whole, here.fedit) < 1
    shares = [len(part.facts) / len(here.facts) for part in here.parts]
    for layer in here.fedavg.layers:
        by_hand = sum(s * edit.delta(layer) for s, edit in zip(shares, here.local, strict=True))
        torch.testing.assert_close(here.fedavg.delta(layer), by_hand)


def test_identities_hold_and_their_opposites_do_not(here):
    assert experiments.other_order(here) == 0 and experiments.sums_of_clients(here) < 1e-9
    assert experiments.downdated(here) < 1e-9
    here.__dict__["never"] = here.everyone  # a control that the client did join
    assert experiments.withdrawn_exactly(here) > 1e-3
    assert experiments.subtracted(here) > 0.01 and experiments.influenced(here) > 0.01


def test_the_never_joined_federation_is_run_by_itself(here, monkeypatch):
    made = []
    monkeypatch.setattr(
        "fleke_lib.reproduce.scenarios.scenario.VectorProvider",
        lambda *of, **given: made.append(given) or provider(*of),
    )
    other = small()
    assert set(other.never.clients) == set(other.names[:-1]) and made == [{}]
    assert experiments.withdrawn_exactly(other) == 0


def test_text_on_the_wire_is_found(here):
    assert experiments.texts_on_the_wire(here) == 0
    told = small()
    told = replace(told, facts=(*told.facts[:-1], Fact("client 1", "The capital of {} is", "Rome", "Paris", "P36")))
    told.__dict__["provider"] = provider(told.lm)
    assert experiments.texts_on_the_wire(told) >= 1


def test_erased_bytes_are_counted(here):
    assert experiments.bytes_left(here) == 0 and experiments.bytes_left(here, careless=True) > 0


def test_every_duplicate_is_reused_and_one_that_is_not_is_found(here, monkeypatch):
    assert experiments.reuse_missed(here) == 0 and experiments.reuse_changes(here) < 1e-9
    reused = here.run(Everyone(), overlap=0.4)
    assert len(reused.ledger.select("reused")) == 12  # of 30, since 18 facts are wanted once
    alone = here.run(ClientConfig(Everyone(), reuse=False), overlap=0.4)
    monkeypatch.setattr(Scenario, "run", lambda *given, **changes: alone)
    assert experiments.reuse_missed(here) == 12


def leave_traces(run, client):
    """A withdrawal that removes the client and leaves its packets where others have adopted or reused them."""
    return replace(run, parts=tuple(part for part in run.parts if part.name != client))


def test_a_withdrawal_from_clients_that_depend_on_each_other_is_exact(here, monkeypatch):
    monkeypatch.setattr(experiments, "VectorProvider", provider)
    assert experiments.withdrawn_exactly_entangled(here) == 0
    monkeypatch.setattr(experiments, "withdraw", leave_traces)
    assert experiments.withdrawn_exactly_entangled(here) != 0


def test_fedit_as_published_is_read_with_text_on_the_edited_model(here):
    """The rule adopts everything here, so after the last slot all facts have been written, one stage after another."""
    edits = weights.sequential_with_text(here.published, here.lm, here.first, here.moments)
    assert gap(here.as_published, edits[here.slots - 1]) == 0 and gap(here.as_published, here.fedit) > 0.01
    asked = here.of_the_first("as_published")
    assert asked.facts == wanted(here.parts)[here.first]
    with here.as_published.applied(here.lm):
        assert asked.score == pytest.approx(evaluate(here.lm, asked.facts).score)


def test_seeds_share_no_fact_and_the_same_seeds_draw_the_same():
    lm, some = scenario()[0], facts()
    drawn = samples(lm, some, 6, 3)
    assert [len(sample) for sample in drawn] == [6, 6, 6] and shared(drawn) == 0
    assert {fact for sample in drawn for fact in sample} == set(some)
    assert digest(drawn) == digest(samples(lm, some, 6, 3)) != digest(drawn[::-1])
    assert shared([some[:4], some[2:6], some[3:5]]) == 3  # numbers 2, 3 and 4
    with pytest.raises(ValueError, match="7 facts are asked for, and there are 4"):
        samples(lm, some, 7, 3)


@pytest.mark.model
def test_the_claims_seeds_share_no_fact_and_none_that_was_tuned_on(lm):
    atlas, drawn = load_facts("atlas"), [one.facts for one in scenarios(lm, Scale("full"))]
    assert len({fact for sample in drawn for fact in sample}) == 288 and shared(drawn) == 0
    assert not {fact for sample in drawn for fact in sample} & set(atlas[:TUNED_ON])
    assert all(len({fact.relation for fact in sample}) >= 8 for sample in drawn)


@pytest.mark.model
@pytest.mark.parametrize("size", NAMES)
def test_every_scales_facts_can_be_distributed(lm, size):
    for one in scenarios(lm, Scale(size)):
        for changes in ({}, {"overlap": 0.4}, {"conflicts": 0.1}):
            parts = partition(one.facts, one.clients, one.by, slots=one.slots, seed=one.seed, **changes)
            assert all(all(part.slots) for part in parts), "every client has facts in every slot"


def test_facts_are_drawn_by_relation_under_a_seed(here):
    lm, some = here.lm, facts()
    one, again, other = draw(lm, some, 9, 0), draw(lm, some, 9, 0), draw(lm, some, 9, 1)
    assert one == again != other and len(set(one)) == 9
    assert len({fact.relation for fact in one}) == 3  # of four facts each, and one more
    assert draw(lm, [*some, *some], 18, 0) == draw(lm, some, 18, 0)
    with pytest.raises(ValueError, match="19 facts are asked for, and there are 18"):
        draw(lm, some, 19, 0)


def test_sweeps_of_vectors_change_one_thing(here):
    overlap = sweep(*named(["overlap"]), here, values=(0.0, 0.4))
    assert overlap.lines["reused"] == pytest.approx((0.0, 0.4), abs=0.03) and overlap.facts == 18
    assert [a + b for a, b in zip(*overlap.lines.values(), strict=True)] == pytest.approx([1, 1])
    tau = sweep(*named(["tau"]), here, values=(-1.0, 1.0))
    assert tau.lines["recall, raw"] == (1.0, 0.0)  # everything, and nothing
    assert Swept.from_dict(json.loads(json.dumps(tau.to_dict()))) == tau
    with pytest.raises(ValueError, match="no sweep 'alpha'"):
        list(named(["alpha"]))
    assert len({one.name for one in SWEEPS}) == len(SWEEPS) == 8


def test_sweeps_of_edits_ask_the_edits_that_they_name(monkeypatch):
    """Where an answer is the length of what was asked: nothing moves with clients but the mean of their updates."""

    def length(self, edit):
        size = float(torch.stack([edit.delta(layer).norm() for layer in edit.layers]).norm())
        return SimpleNamespace(score=size, top1=len(edit.layers))

    monkeypatch.setattr(Scenario, "asked", length)
    one = small(slots=1)
    clients = sweep(*named(["clients"]), one, values=(2, 3))
    two, three = clients.lines[
        "FedEdit from vectors"
    ]  # sums in another order: ids, which give the order, cover the client's name
    assert two == pytest.approx(three, rel=1e-12) and two > 0
    assert clients.lines["plain mean"][0] > clients.lines["plain mean"][1] > 0
    weight = sweep(*named(["lambda"]), one, values=(1e-3, 1.0, 1e12))
    assert weight.lines["score"][0] > weight.lines["score"][1] > 1e6 * weight.lines["score"][2]
    assert sweep(*named(["layers"]), one, values=(1, 2)).lines["top-1"] == (1, 2)


def test_a_world_like_another_keeps_what_was_made(here):
    other = sweeps._like(here, clients=2)
    assert other.provider is here.provider and len(other.parts) == 2 and len(here.parts) == 3
