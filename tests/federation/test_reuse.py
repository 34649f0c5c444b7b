"""Packets with a fact's tags and other vectors: what a client that has the fact notices."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.partitioning import Part
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.reuse import fault_of_reuse
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.sealing.channel import SealedChannel
from fleke_lib.federation.sealing.sealing import Sealing
from fleke_lib.federation.server import Channel
from fleke_lib.federation.weights import held
from fleke_lib.privacy.attacks.poisoning import cancelling, erasing, forged, mistagged
from tests.federation.small import facts, scenario

SECRET = b"the clients' own"
TAGS = Tags(SECRET)
FACTS = facts()
PARTS = [Part("bob", ((FACTS[6],),), ()), Part("cleo", ((FACTS[0],),), ())]


def packet_of(fact, client="ada", precision="int4") -> Packet:
    _, provider, _ = scenario()
    (one,) = provider([fact])
    tags = {"question": TAGS.question(fact), "answer": TAGS.answer(fact)}
    return pack(one.trajectory, one.mkv, client, 0, tags, Compression(4, precision))


def fault(packet, fact=FACTS[0]) -> str:
    return fault_of_reuse(scenario()[0], packet, fact)


@pytest.mark.parametrize("precision", ["int4", "int8", "float16", "float32"])
def test_honest_packets_are_of_their_facts(precision):
    for fact in FACTS:
        assert fault(packet_of(fact, precision=precision), fact) == ""


def test_other_vectors_are_noticed():
    """Each liar knows the victim's packet, and changes one thing."""
    victim, carrier = packet_of(FACTS[0]), packet_of(FACTS[6])
    rules = Rules.of(scenario()[0])
    assert "has an h that is" in fault(mistagged(carrier, victim, "mallory", 0))
    opposite = forged(victim, "mallory", 0, z=victim.h - victim.residual)
    assert "target less likely than h does" in fault(opposite)
    assert "less likely" in fault(cancelling(victim, {"question": "0" * 64, "answer": victim.answer}, "mallory", 0))
    assert "has an axis at layer 1 along which" in fault(erasing(victim, [carrier], rules, "mallory", 0))
    shares = {layer: -share for layer, share in victim.shares.items()}
    assert "has a share at layer 1 that is 2 of its norm away" in fault(forged(victim, "mallory", 0, shares=shares))
    assert "has a mean key at layer 1" in fault(forged(victim, "mallory", 0, means=carrier.means))
    assert "mean key on the base model at layer 2" in fault(replace(victim, bases=victim.bases | {2: carrier.bases[2]}))
    wide = {layer: 2 * axes for layer, axes in victim.axes.items()}
    assert "layer 1" in fault(forged(victim, "mallory", 0, axes=wide))
    assert "has a greater spread at layer 2" in fault(replace(victim, left=victim.left | {2: 1e3}))


def lying_run(monkeypatch, channel, packets, parts=PARTS, protection=None):
    """A run whose first client publishes these packets before its own."""
    put, lies = channel.put, list(packets)

    def also(self, data):
        while self.client == "bob" and lies:
            put(self, lies.pop().data)
        return put(self, data)

    monkeypatch.setattr(channel, "put", also)
    lm, provider, _ = scenario()
    config = ClientConfig(Everyone())
    return run_fedit(lm, parts, config, provider=provider, secret=SECRET, protection=protection)


@pytest.mark.parametrize("channel, protection", [(Channel, None), (SealedChannel, Sealing())])
def test_a_client_makes_its_own_instead_of_reusing_other_vectors(monkeypatch, channel, protection):
    lie = mistagged(packet_of(FACTS[7]), packet_of(FACTS[0]), "bob", 0)
    run = lying_run(monkeypatch, channel, [lie], protection=protection)
    (refused,) = run.ledger.select("refused")
    assert (refused.client, refused.packet) == ("cleo", lie.id) and refused.received > 0
    (own,) = run.own("cleo")
    assert own.client == "cleo" and torch.equal(own.z, packet_of(FACTS[0]).z)
    assert not run.ledger.select("reused") and lie.id not in {packet.id for packet in held(run, "cleo")}
    reason = run.refusals["cleo"][lie.id]
    assert reason.startswith(f"packet {lie.id[:12]} of 'bob' has an h that is ") and run.refusals["bob"] == {}
    assert reason.endswith(" away from this fact's: its tags are of this fact and its vectors are not.")
    assert FACTS[0].subject not in reason


def test_what_was_adopted_before_is_dropped_when_the_client_has_the_fact(monkeypatch):
    lie = mistagged(packet_of(FACTS[7]), packet_of(FACTS[0]), "bob", 0)
    later = Part("cleo", ((FACTS[12],), (FACTS[0],)), ())
    run = lying_run(monkeypatch, Channel, [lie], [PARTS[0], later])
    assert lie.id in {packet.id for packet in run.adopted("cleo", 0)}
    assert lie.id not in {packet.id for packet in run.adopted("cleo")}
    assert [event.slot for event in run.ledger.select("refused")] == [1]


def test_an_honest_packet_is_reused(monkeypatch):
    run = lying_run(monkeypatch, Channel, [replace(packet_of(FACTS[0], "bob"))])
    assert [event.client for event in run.ledger.select("reused")] == ["cleo"] and not run.ledger.select("refused")
