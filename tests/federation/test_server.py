"""The server's own bounds: its slot, pages of offers, and how much one message may ask for."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.federation import server as module
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.server import Channel, Server
from tests.federation.sample_packets import RULES, packet_of


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "r.db", RULES) as registry:
        yield registry


def test_the_slot_is_the_servers(registry):
    server = Server(registry)
    ada = Channel(server, "ada")
    ada.put(packet_of(0, slot=9).data)  # nobody has begun a slot
    server.begin(2)
    assert ada.put(packet_of(1, slot=2).data) == packet_of(1, slot=2).id
    for slot in (0, 1, 3, 2**31 - 1):
        with pytest.raises(Refused, match=f"is of slot {slot}, and the present one is slot 2: publish it under that"):
            ada.put(packet_of(2, slot=slot).data)
    server.begin(3)
    ada.put(packet_of(2, slot=3).data)
    assert len(registry) == 3


def test_offers_come_in_pages(registry, monkeypatch):
    packets = [packet_of(seed, "ada" if seed % 4 else "grace") for seed in range(11)]
    for packet in packets:
        registry.put(packet.data)
    whole = Channel(Server(registry), "grace").offers(0)
    assert len(whole.ids) == 8
    for page in (1, 3, 4, 8):
        monkeypatch.setattr(module, "PAGE", page)
        messages = []
        channel = Channel(Server(registry), "grace", lambda kind, *_, messages=messages: messages.append(kind))
        paged = channel.offers(0)
        assert paged.ids == whole.ids and torch.equal(paged.z, whole.z) and torch.equal(paged.h, whole.h)
        assert messages == ["offers"] * (8 // page + 1)


def test_packets_come_in_bounded_answers(registry, monkeypatch):
    packets = [packet_of(seed) for seed in range(5)]
    ids = [registry.put(packet.data) for packet in packets]
    server = Server(registry)
    monkeypatch.setattr(module, "TOGETHER", 2)
    messages = []
    channel = Channel(server, "grace", lambda *message: messages.append(message))
    assert channel.get(ids) == [packet.data for packet in packets]
    assert [len(body) for _, body, _ in messages] == [64, 64, 32]
    with pytest.raises(ValueError, match="3 ids are asked for, 3 of them different: send 2 at most, and each once"):
        server.handle("get", bytes.fromhex("".join(ids[:3])))
    with pytest.raises(ValueError, match="2 ids are asked for, 1 of them different"):
        server.handle("get", bytes.fromhex(ids[0] * 2))


def test_a_page_is_asked_for_by_an_id(registry):
    for body in (b'[0, "a", 7]', b'[0, "a", null]', b'[0, "a", "b", "c"]'):
        with pytest.raises(ValueError, match="slot and a client"):
            Server(registry).handle("offers", body)


def test_a_server_that_takes_nothing_in_may_begin_a_slot(tmp_path):
    with Registry(tmp_path / "r.db", RULES) as registry:
        registry.put(packet_of(0).data)
    with Registry(tmp_path / "r.db") as registry:
        Server(registry).begin(4)
        assert registry.rules is None
    assert replace(RULES, slot=0).check(packet_of(0).data).slot == 0
