"""Warm starts: which packets give their residual, what is optimised from it, and what the ledger records."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.packets.packet import pack
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.warm_start import COLD, Start, warm_starts
from fleke_lib.mkv.edit_map import EditMap, teach
from fleke_lib.mkv.mkv import compute_mkvs
from tests.federation.sample_packets import TAGS, fact_of, mkv_of, packet_of, path_of
from tests.federation.small import facts, scenario

PARTS = partition(facts(), 2, slots=2, seed=1)


def packet_for(seed: int, target: str):
    """A packet of another question with this target."""
    fact = replace(fact_of(seed), target_new=target)
    tags = {name: getattr(TAGS, name)(fact) for name in ("question", "answer", "target")}
    return pack(path_of(seed), mkv_of(seed), "ada", 0, tags)


def test_the_mean_residual_of_the_packets_with_the_same_answer():
    packets = [packet_for(1, "red"), packet_for(2, "red"), packet_for(3, "blue"), packet_of(4)]
    wanted = [replace(fact_of(5), target_new=target) for target in ("red", "blue", "green")]
    red, blue, green = warm_starts(wanted, packets, TAGS)
    torch.testing.assert_close(red.residual, (packets[0].residual + packets[1].residual) / 2)
    assert red.sources == tuple(sorted(packet.id for packet in packets[:2]))
    assert torch.equal(blue.residual, packets[2].residual) and blue.sources == (packets[2].id,)
    assert green is COLD
    again, *_ = warm_starts(wanted, packets[::-1], TAGS)
    assert torch.equal(again.residual, red.residual) and again.sources == red.sources


def test_a_packet_without_the_tag_is_no_source():
    fact = fact_of(1)
    tags = {"question": TAGS.question(fact), "answer": TAGS.answer(fact)}
    silent = pack(path_of(1), mkv_of(1), "ada", 0, tags)
    assert warm_starts([fact], [silent], TAGS) == [COLD]
    assert warm_starts([fact], [packet_of(1)], replace(TAGS, secret=b"another")) == [COLD]


def test_what_a_provider_computes_from_a_start_is_kept_for_that_start_alone():
    lm, provider, _ = scenario()
    pair = facts()[:2]
    start = Start(0.2 * torch.ones(lm.d_model), ("a",))
    cold, (warm, other) = provider(pair), provider(pair, [start, COLD])
    (wanted,) = compute_mkvs(lm, pair[:1], starts=start.residual[None])
    assert torch.equal(warm.mkv.z, wanted.z) and warm.sources == ("a",)
    assert not torch.equal(warm.mkv.z, cold[0].mkv.z)
    assert other is cold[1] and cold[0].sources == ()
    assert provider(pair, [start, COLD])[0] is warm and provider(pair)[0] is cold[0]
    assert provider(pair[:1], [replace(start, sources=("b",))])[0] is not warm


@pytest.fixture(scope="module")
def run():
    lm, provider, _ = scenario()
    return run_fedit(lm, PARTS, ClientConfig(Everyone(), warm=True), provider=provider, secret=b"the clients' own")


def test_a_warm_federation_names_the_sources(run):
    """They are packets of the same answer that the client held before; in the first slot there are none."""
    warm = [event for event in run.ledger.select("optimised") if event.of]
    assert warm and all(event.slot > 0 for event in warm)
    for event in warm:
        held = {
            packet.id for packet in (*run.own(event.client, event.slot - 1), *run.adopted(event.client, event.slot - 1))
        }
        assert set(event.of) <= held
        assert {run.fact(source).target_new for source in event.of} == {run.fact(event.packet).target_new}
    assert all(packet.target for packet in run.packets.values())


def test_the_same_federation_twice_is_the_same(run):
    lm, provider, _ = scenario()
    assert (
        run_fedit(lm, PARTS, ClientConfig(Everyone(), warm=True), provider=provider, secret=b"the clients' own").ledger
        == run.ledger
    )


def test_without_the_habit_no_tag_of_the_target_is_sent():
    lm, provider, _ = scenario()
    cold = run_fedit(lm, PARTS, Everyone(), provider=provider, secret=b"the clients' own")
    assert not any(packet.target for packet in cold.packets.values())
    assert not any(event.of for event in cold.ledger)


def taught_by(run, client: str):
    """What a client's own packets teach; it has their texts."""
    lm, _, _ = scenario()
    own = run.own(client)
    return teach(lm, [run.texts[client][packet.id] for packet in own], own, [packet.id for packet in own])


@pytest.fixture(scope="module")
def disjoint():
    """A cold federation whose clients share no fact, so that each packet has one owner."""
    lm, provider, _ = scenario()
    return run_fedit(
        lm, partition(facts()[:12], 2, slots=2, seed=1), Everyone(), provider=provider, secret=b"the clients' own"
    )


def test_a_federation_that_begins_from_a_map_names_the_teachers(disjoint):
    lm, provider, _ = scenario()
    sums = [taught_by(disjoint, client) for client in disjoint.clients]
    whole = EditMap.solve(sums[0] + sums[1])
    assert whole.teachers == tuple(sorted(disjoint.packets))
    configs = {"client 0": ClientConfig(Everyone(), map=whole), "client 1": ClientConfig(Everyone())}
    later = partition(facts()[12:], 2, slots=2, seed=1)
    run = run_fedit(lm, later, configs, provider=provider, secret=b"the clients' own")
    prepared = run.ledger.select("optimised")
    assert {event.client for event in prepared} == {"client 0", "client 1"}
    for event in prepared:
        assert event.of == (whole.teachers if event.client == "client 0" else ())
    assert not any(packet.target for packet in run.packets.values())
    cold = run_fedit(lm, later, Everyone(), provider=provider, secret=b"the clients' own")
    assert {packet.id for packet in run.own("client 0")}.isdisjoint(packet.id for packet in cold.own("client 0"))
    assert run.own("client 1")[0].id == cold.own("client 1")[0].id


def test_a_map_without_a_client_is_the_map_that_it_never_taught(disjoint):
    one, other = (taught_by(disjoint, client) for client in disjoint.clients)
    left, never = EditMap.solve(one + other - other), EditMap.solve(one)
    torch.testing.assert_close(left.M, never.M, rtol=1e-9, atol=1e-9)
    assert left.teachers == never.teachers == tuple(sorted(packet.id for packet in disjoint.own("client 0")))


def test_a_map_that_owes_nobody_leaves_nobody_in_the_ledger(disjoint):
    lm, provider, _ = scenario()
    nobodys = EditMap.solve(replace(taught_by(disjoint, "client 0"), teachers=()))
    run = run_fedit(lm, PARTS, ClientConfig(Everyone(), map=nobodys), provider=provider, secret=b"the clients' own")
    cold = run_fedit(lm, PARTS, Everyone(), provider=provider, secret=b"the clients' own")
    assert not any(event.of for event in run.ledger)
    assert run.packets.keys().isdisjoint(cold.packets)


def test_a_packet_with_the_same_answer_goes_before_the_map(disjoint):
    lm, provider, _ = scenario()
    map = EditMap.solve(taught_by(disjoint, "client 0"))
    run = run_fedit(
        lm, PARTS, ClientConfig(Everyone(), warm=True, map=map), provider=provider, secret=b"the clients' own"
    )
    kinds = set()
    for event in run.ledger.select("optimised"):
        if event.of == map.teachers:
            kinds.add("map")
            here = (*run.own(event.client, event.slot - 1), *run.adopted(event.client, event.slot - 1))
            answers = {run.fact(packet.id).target_new for packet in here}
            assert run.fact(event.packet).target_new not in answers
        else:
            kinds.add("packets")
            assert {run.fact(source).target_new for source in event.of} == {run.fact(event.packet).target_new}
    assert kinds == {"map", "packets"}


def test_facts_that_no_packet_answers_start_otherwise():
    packets, wanted = [packet_for(1, "red")], [replace(fact_of(5), target_new=target) for target in ("red", "green")]
    otherwise = Start(torch.ones(32), ("a",))
    red, green = warm_starts(wanted, packets, TAGS, otherwise)
    assert red.sources == (packets[0].id,) and green is otherwise
