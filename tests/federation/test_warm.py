"""Warm starts: which packets lend their residual, what is made from it, and what the ledger says of it."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.federation.client import Habits
from fleke_lib.federation.packet import pack
from fleke_lib.federation.partition import partition
from fleke_lib.federation.retrieval import Everyone
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.warm import COLD, Start, warm_starts
from fleke_lib.mkv import compute_mkvs
from tests.federation.packets import TAGS, fact_of, mkv_of, packet_of, path_of
from tests.federation.small import facts, world

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
    assert red.of == tuple(sorted(packet.id for packet in packets[:2]))
    assert torch.equal(blue.residual, packets[2].residual) and blue.of == (packets[2].id,)
    assert green is COLD
    again, *_ = warm_starts(wanted, packets[::-1], TAGS)
    assert torch.equal(again.residual, red.residual) and again.of == red.of


def test_a_packet_without_the_tag_is_no_source():
    fact = fact_of(1)
    tags = {"question": TAGS.question(fact), "answer": TAGS.answer(fact)}
    silent = pack(path_of(1), mkv_of(1), "ada", 0, tags)
    assert warm_starts([fact], [silent], TAGS) == [COLD]
    assert warm_starts([fact], [packet_of(1)], replace(TAGS, secret=b"another")) == [COLD]


def test_what_a_maker_makes_from_a_start_is_kept_for_that_start_alone():
    lm, maker, _ = world()
    pair = facts()[:2]
    start = Start(0.2 * torch.ones(lm.d_model), ("a",))
    cold, (warm, other) = maker(pair), maker(pair, [start, COLD])
    (wanted,) = compute_mkvs(lm, pair[:1], starts=start.residual[None])
    assert torch.equal(warm.mkv.z, wanted.z) and warm.of == ("a",)
    assert not torch.equal(warm.mkv.z, cold[0].mkv.z)
    assert other is cold[1] and cold[0].of == ()
    assert maker(pair, [start, COLD])[0] is warm and maker(pair)[0] is cold[0]
    assert maker(pair[:1], [replace(start, of=("b",))])[0] is not warm


@pytest.fixture(scope="module")
def run():
    lm, maker, _ = world()
    return run_fedit(lm, PARTS, Habits(Everyone(), warm=True), make=maker)


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
    lm, maker, _ = world()
    assert run_fedit(lm, PARTS, Habits(Everyone(), warm=True), make=maker).ledger == run.ledger


def test_without_the_habit_no_tag_of_the_target_is_sent():
    lm, maker, _ = world()
    cold = run_fedit(lm, PARTS, Everyone(), make=maker)
    assert not any(packet.target for packet in cold.packets.values())
    assert not any(event.of for event in cold.ledger)
