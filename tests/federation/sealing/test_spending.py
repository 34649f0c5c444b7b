"""Budgets where the server is blind: each receiver counts and weighs, with the sentences of a registry."""

from dataclasses import replace

import pytest

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.registry.budget import Budget
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.sealing.channel import OnlyChosen, WholeSlots
from fleke_lib.federation.sealing.store import SealedStore
from tests.federation.registry.test_leverage import BOUNDED, weight_by_hand
from tests.federation.sample_packets import packet_of
from tests.federation.sealing.members import GROUP, channel_of

both = pytest.mark.parametrize("fetch", [WholeSlots, OnlyChosen])
ADAS = [packet_of(seed, "ada", slot) for seed, slot in ((0, 0), (1, 0), (2, 1), (3, 0))]
WEIGHTS = {packet.id: weight_by_hand(packet) for packet in ADAS}


@pytest.fixture
def store(tmp_path):
    with SealedStore(tmp_path / "sealed.db", BOUNDED, GROUP) as store:
        yield store


def published(store, packets=ADAS):
    for packet in packets:
        channel_of(store, packet.client, rules=BOUNDED).put(packet.data)


def read(channel, slots=(0, 1)):
    """Everything that a receiver gets, slot after slot."""
    found = [data for slot in slots for data in channel.get(channel.offers(slot).ids)]
    return [Packet.read(data).id for data in found if data]


def refused_in_plain(tmp_path, rules, packets):
    """The sentences of a registry, and what it takes in."""
    sentences, kept = [], []
    with Registry(tmp_path / "plain.db", rules) as registry:
        for packet in packets:
            try:
                kept.append(registry.put(packet.data))
            except Refused as error:
                sentences.append(str(error))
    return sentences, kept


@pytest.mark.parametrize("budget", [
    Budget(packets=2),
    Budget(packets_in_all=3),
    Budget(weight=1.0001 * sum(WEIGHTS[packet.id] for packet in ADAS[:2])),
    Budget(weight_in_all=1.0001 * sum(WEIGHTS[packet.id] for packet in ADAS[:3])),
    Budget(weight=0.5 * min(WEIGHTS.values())),
])  # fmt: skip
def test_a_receiver_refuses_what_a_registry_refuses_with_the_same_sentence(store, tmp_path, budget):
    """`WholeSlots` counts in the order of arrival; here packets are opened in that order, too."""
    rules = replace(BOUNDED, budget=budget)
    published(store)
    sentences, kept = refused_in_plain(tmp_path, rules, ADAS)
    cleo = channel_of(store, "cleo", rules=rules)
    offered = {*cleo.offers(0).ids, *cleo.offers(1).ids}
    got = [data for packet in ADAS if packet.id in offered for data in cleo.get([packet.id]) if data]
    assert [Packet.read(data).id for data in got] == kept and sentences
    assert [*cleo.refusals.values()] == sentences
    channel_of(store, "bob").put(packet_of(7, "bob").data)
    if budget.weight > weight_by_hand(packet_of(7)):
        assert packet_of(7, "bob").id in read(cleo)  # everybody has a budget of their own


@both
def test_more_packets_than_a_budget_has_are_no_offers(store, fetch):
    published(store)
    cleo = channel_of(store, "cleo", fetch, rules=replace(BOUNDED, budget=Budget(packets=2)))
    assert len(cleo.offers(0).ids) == 2 == len(cleo.offers(0).ids) and len(cleo.offers(1).ids) == 1
    (reason,) = cleo.refusals.values()
    assert reason.endswith("'ada' has 3 packets in slot 0, and 2 are its budget: withdraw others.")
    assert len(read(cleo)) == 3


@both
def test_weights_are_charged_once_and_own_packets_are_free(store, fetch):
    published(store)
    total = sum(WEIGHTS.values())
    cleo = channel_of(store, "cleo", fetch, rules=replace(BOUNDED, budget=Budget(weight_in_all=1.0001 * total)))
    assert set(read(cleo)) == set(read(cleo)) == set(WEIGHTS) and not cleo.refusals
    less = channel_of(store, "cleo", fetch, rules=replace(BOUNDED, budget=Budget(weight_in_all=0.9999 * total)))
    got = read(less)
    assert len(got) == len(read(less)) == 3
    (reason,) = less.refusals.values()
    assert reason.endswith(
        f"packets of weight {total:.4g} in all, and {0.9999 * total:.4g} is its budget: withdraw others."
    )
    ada = channel_of(store, "ada", fetch, rules=replace(BOUNDED, budget=Budget(packets=0, weight=0.0)))
    ada.put(packet_of(9, "ada").data)
    assert ada.find(packet_of(9).answer) and not ada.refusals


@both
def test_what_is_forgotten_does_not_count(store, fetch):
    published(store, ADAS[:2])
    rules = replace(BOUNDED, budget=Budget(packets=2, weight=1.0001 * (sum(WEIGHTS.values()) - WEIGHTS[ADAS[2].id])))
    cleo = channel_of(store, "cleo", fetch, rules=rules)
    assert len(read(cleo)) == 2
    (sealed,) = cleo._held[ADAS[0].id]
    store.withdraw(packets=[sealed.card.id])
    cleo.forget(packets=[ADAS[0].id])
    published(store, ADAS[3:])
    assert ADAS[3].id in read(cleo)


@both
def test_a_packet_that_the_rules_refuse_is_not_weighed(store, fetch):
    """It has other layers, so that no weight exists; the client's own check says why it is refused."""
    bad = packet_of(2, "bob", layers=(3, 5))
    channel_of(store, "bob", rules=BOUNDED).put(bad.data)
    cleo = channel_of(store, "cleo", fetch, rules=replace(BOUNDED, budget=Budget(weight=1.0)))
    assert cleo.get(cleo.offers(0).ids) == [bad.data] and not cleo.refusals
