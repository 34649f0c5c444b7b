"""Members over the blind server: both ways to fetch, what each shows the server, and members and servers that lie."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.sealing.channel import OnlyChosen, WholeSlots
from fleke_lib.federation.sealing.epochs import Keyring
from fleke_lib.federation.sealing.exchange import BlindServer
from fleke_lib.federation.sealing.sealed import Card, PacketKeys, Sealed, encrypted
from fleke_lib.federation.sealing.store import SealedStore
from fleke_lib.federation.server import Channel, Server
from tests.federation.sample_packets import RULES, TAGS, fact_of, packet_of
from tests.federation.sealing.members import DRAWS, EPOCH_KEY, GROUP, IDENTITIES, KEYRING, NAMES, channel_of, sealed_of

PACKETS = [packet_of(seed, NAMES[seed % 3], slot=seed // 6) for seed in range(12)]
both = pytest.mark.parametrize("fetch", [WholeSlots, OnlyChosen])


@pytest.fixture
def store(tmp_path):
    with SealedStore(tmp_path / "sealed.db", RULES, GROUP) as store:
        yield store


def channels(store, fetch=WholeSlots, **changes):
    return {name: channel_of(store, name, fetch, **changes) for name in NAMES}


@both
def test_a_client_sees_what_it_would_see_without_seals(store, tmp_path, fetch):
    with Registry(tmp_path / "plain.db", RULES) as registry:
        plain = {name: Channel(Server(registry), name) for name in NAMES}
        sealed = channels(store, fetch)
        for packet in PACKETS:
            assert sealed[packet.client].put(packet.data) == plain[packet.client].put(packet.data) == packet.id
        for name in NAMES:
            for slot in (0, 1, 2):
                one, other = plain[name].offers(slot), sealed[name].offers(slot)
                assert one.ids == other.ids and one.z.numel() == other.z.numel()
                assert not one.ids or (torch.equal(one.z, other.z) and torch.equal(one.h, other.h))
                assert sealed[name].get(one.ids[:2]) == plain[name].get(one.ids[:2])
            for seed in (*range(12), 50):
                tag = TAGS.answer(fact_of(seed))
                assert plain[name].find(tag) == sealed[name].find(tag)
            assert sealed[name].refusals == {}


@both
def test_of_two_with_the_same_answer_the_same_is_found(store, tmp_path, fetch):
    """The earlier slot, then the lesser id, in whatever order they came."""
    twins = [packet_of(1, "bob", slot=2), packet_of(1, "ada", slot=1), packet_of(1, "cleo", slot=1)]
    with Registry(tmp_path / "plain.db", RULES) as registry:
        sealed = channels(store, fetch)
        for packet in twins:
            sealed[packet.client].put(packet.data)
            registry.put(packet.data)
        expected = registry.get([registry.find(twins[0].answer)[0]])
        assert [sealed[name].find(twins[0].answer) for name in NAMES] == expected * 3


def test_whole_slots_show_no_choice_and_are_fetched_once(store):
    seen = []
    bob = channel_of(store, "bob", tap=lambda *message: seen.append(message))
    for packet in PACKETS:
        channel_of(store, packet.client).put(packet.data)
    offers = bob.offers(0)
    bob.get(offers.ids[:1]), bob.find(PACKETS[0].answer), bob.find("00" * 32), bob.offers(1)
    assert {kind for kind, _, _ in seen} == {"since"}
    asked = [json.loads(sent) for _, sent, _ in seen]
    assert [who for _, who in asked] == ["bob"] * 4 and [last for last, _ in asked] == [0, 12, 12, 12]
    assert all(len(cut_apart(answer)) == 1 for _, _, answer in seen[1:])
    assert bob.bytes_of(offers.ids[0], b"") == {"sent": 0, "received": 0}


def test_only_chosen_is_cheaper_and_counts_its_bytes(store):
    for packet in PACKETS:
        channel_of(store, packet.client).put(packet.data)
    bob, whole = channel_of(store, "bob", OnlyChosen), channel_of(store, "bob")
    offers = bob.offers(0)
    whole.offers(0)
    assert bob.received < whole.received / 2
    before = bob.sent, bob.received
    data = bob.get(offers.ids[:2])
    costs = [bob.bytes_of(*one) for one in zip(offers.ids[:2], data, strict=True)]
    assert sum(cost["sent"] for cost in costs) == bob.sent - before[0] == 64
    assert sum(cost["received"] for cost in costs) == bob.received - before[1]
    assert bob.get(offers.ids[:1]) == data[:1] and bob.bytes_of(offers.ids[0], data[0])["received"] == 0


def lie(name, packet, *, offer_of=None, inside=None):
    """A sealed packet of a member that lies: another offer or other contents; signed and wrapped well."""
    head = sealed_of(packet)[0].card.head
    content = inside if inside is not None else packet.data
    shown = offer_of or packet
    keys = PacketKeys(hashlib.sha256(name.encode() + head.data).digest(), hashlib.sha256(content).digest())
    vectors = torch.cat([shown.z, shown.h]).half().numpy().tobytes()
    id = hashlib.sha256(content).digest() if offer_of is None else bytes.fromhex(shown.id)
    offer = encrypted(keys.offer, bytes(12), id + vectors, b"offer" + head.data)
    body = encrypted(keys.body, bytes(12), content, b"body" + head.data)
    card = Card(head, offer, hashlib.sha256(body).digest(), b"")
    card = replace(card, signature=IDENTITIES[name].signing.sign(card.signed))
    return Sealed(card, body).data, KEYRING.wrap(card, keys, DRAWS)


@both
def test_what_the_rules_refuse_is_refused_by_the_receiver_with_the_same_sentence(store, fetch):
    """A packet of bob that is no packet, and one of another federation: the server cannot tell."""
    good, bad = packet_of(1, "ada"), packet_of(2, "bob", layers=(3, 5))
    channel_of(store, "ada").put(good.data)
    store.put(*lie("bob", bad))
    store.put(*lie("bob", packet_of(3, "bob"), inside=b"x" * 99))
    cleo = channel_of(store, "cleo", fetch)
    offers = cleo.offers(0)
    assert {good.id, bad.id, hashlib.sha256(b"x" * 99).hexdigest()} == set(offers.ids)
    got = dict(zip(offers.ids, cleo.get(offers.ids), strict=True))
    assert got[good.id] == good.data and got[bad.id] == bad.data, "well formed: the client's rules refuse it"
    with pytest.raises(Refused, match=r"is of layers \[3, 5\]"):
        RULES.check(got[bad.id])
    assert got[hashlib.sha256(b"x" * 99).hexdigest()] == b""
    with pytest.raises(Refused) as expected:
        RULES.check(b"x" * 99)
    assert [*cleo.refusals.values()] == [str(expected.value)]


@both
def test_whoever_claims_another_ones_packet_does_not_hide_it(store, fetch):
    """Bob offers ada's packet under its id, before and after her, with vectors and with a body of his own."""
    good, other = packet_of(1, "ada"), packet_of(9, "ada")
    store.put(*lie("bob", packet_of(2, "bob"), offer_of=good))
    channel_of(store, "ada").put(good.data)
    channel_of(store, "ada").put(other.data)
    store.put(*lie("bob", packet_of(1, "bob"), offer_of=other, inside=other.data))
    cleo = channel_of(store, "cleo", fetch)
    offers = cleo.offers(0)
    assert set(offers.ids) == {good.id, other.id}
    assert dict(zip(offers.ids, cleo.get(offers.ids), strict=True)) == {good.id: good.data, other.id: other.data}
    assert len(cleo.refusals) == 2


@both
def test_an_offer_beyond_the_rules_is_no_offer(store, fetch):
    packet = packet_of(1, "bob")
    for number, (z, h, match) in enumerate((
        (packet.z[:-1], packet.h[:-1], "has vectors of width 31 instead of 32"),
        (torch.full_like(packet.z, 30000.0), packet.h, "more than the rules admit"),
        (torch.full_like(packet.z, torch.inf), packet.h, "not finite"),
    )):  # fmt: skip
        sealed, wrapped = lie("bob", packet_of(10 + number, "bob"), offer_of=replace(packet, z=z, h=h))
        store.put(sealed, wrapped)
        cleo = channel_of(store, "cleo", fetch)
        assert cleo.offers(0).ids == ()
        assert any(match in reason for reason in cleo.refusals.values())
    foreign = channel_of(store, "cleo", fetch, rules=replace(RULES, fingerprint="ab" * 32))
    assert foreign.offers(0).ids == ()


@both
def test_a_member_without_the_key_or_with_another_one_gets_nothing(store, fetch):
    for packet in PACKETS:
        channel_of(store, packet.client).put(packet.data)
    for keyring, match in ((Keyring(), "was not dealt"), (Keyring().plus(0, bytes(32)), "do not open with this group")):
        outsider = channel_of(store, "cleo", fetch, keyring=keyring)
        assert outsider.offers(0).ids == () and outsider.find(PACKETS[0].answer) is None
        assert outsider.refusals and all(match in reason for reason in outsider.refusals.values())
        assert all(EPOCH_KEY.hex() not in reason for reason in outsider.refusals.values())


@both
def test_packets_of_who_was_revoked_are_not_opened(store, fetch):
    for packet in PACKETS:
        channel_of(store, packet.client).put(packet.data)
    cleo = channel_of(store, "cleo", fetch, group=GROUP.left("bob"))
    assert {Packet.read(data).client for data in cleo.get(cleo.offers(0).ids)} == {"ada"}
    assert all("'bob' is no member" in reason for reason in cleo.refusals.values())


def test_keys_are_dealt_through_the_server(store):
    line = {name: channel_of(store, name, keyring=Keyring()) for name in NAMES}
    line["ada"].deal(EPOCH_KEY, NAMES)
    with pytest.raises(Refused, match="not of the dealer"):
        line["bob"].deal(EPOCH_KEY, ["bob"])
    for one in line.values():
        one.join()
        assert one.keyring.keys == {0: EPOCH_KEY}
    store.group = group = GROUP.left("cleo")
    for one in line.values():
        one.group = group
    line["ada"].deal(bytes(range(32)), group.members)
    line["bob"].join(), line["cleo"].join(), line["ada"].join()
    line["ada"].put(packet_of(1, "ada").data)
    assert line["bob"].offers(0).ids == (packet_of(1, "ada").id,) and line["cleo"].offers(0).ids == ()


@both
def test_a_server_that_lies_changes_nothing(store, fetch):
    """Records that are cut, mixed or replaced are left out; answers of no form stop the client."""
    for packet in PACKETS[:6]:
        channel_of(store, packet.client).put(packet.data)

    class Lying(BlindServer):
        def handle(self, kind, body, sender=""):
            first, *rest = cut_apart(super().handle(kind, body, sender)) or [b""]
            if kind == "since":
                one, other = cut_apart(rest[0]), cut_apart(rest[1])
                return joined([first, joined([one[0], other[1], one[2]]), joined([other[0], other[1], one[2]]), b"x"])
            return joined([other[::-1] for other in (first, *rest)])

    liar = channel_of(store, "cleo", fetch)
    liar.server = Lying(store)
    assert all(data == b"" for data in liar.get(liar.offers(0).ids))
    assert liar.refusals and all("\n" not in reason for reason in liar.refusals.values())
    for answer in (b"xyz", joined([b"-1"]), joined([b"1" * 99])):
        liar.server = type("Wrong", (), {"handle": lambda self, kind, body, sender, answer=answer: answer})()
        if fetch is WholeSlots or answer == b"xyz":
            with pytest.raises(ValueError, match="ask"):
                liar.offers(0)
    with pytest.raises(ValueError, match="publish nothing there"):
        liar.put(packet_of(30, "cleo").data)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    with SealedStore(tmp_path_factory.mktemp("fuzz") / "sealed.db", RULES, GROUP) as store:
        yield store


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["put", "since", "offers", "find", "get", "deal", "dealt", "steal"]), st.binary(max_size=120))
def test_the_server_answers_any_bytes_or_refuses_them_with_one_sentence(empty, kind, body):
    try:
        assert isinstance(BlindServer(empty).handle(kind, body, "ada"), bytes)
    except ValueError as error:
        assert "\n" not in str(error)
    assert len(empty) == 0


def test_what_a_member_forgets_it_does_not_open_any_more(store):
    for packet in PACKETS:
        channel_of(store, packet.client).put(packet.data)
    cleo = channel_of(store, "cleo")
    ids = cleo.offers(0).ids
    cleo.forget(clients=["bob"], packets=[PACKETS[0].id])
    left = [data for data in cleo.get(ids) if data]
    assert {Packet.read(data).id for data in left} == {PACKETS[3].id}
