"""A sealed packet: what opens it and what does not, against `cryptography` used by hand, and with bytes of any kind."""

import hashlib
import json
import random
import stat
from dataclasses import replace

import pytest
import torch
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.head import Head
from fleke_lib.federation.sealing.sealed import Card, PacketKeys, Sealed, encrypted, open_body, open_offer, seal
from tests.federation.sample_packets import D_MODEL, RULES, packet_of
from tests.federation.sealing.members import IDENTITIES, MEMBERS, sealed_of

PACKET = packet_of(1)
SEALED, KEYS, _ = sealed_of(PACKET)
ADA = MEMBERS["ada"]


def resigned(card: Card, name: str = "ada") -> Card:
    """A card with a valid signature of a member, whatever it says."""
    return replace(card, signature=IDENTITIES[name].signing.sign(card.signed))


def test_what_was_sealed_is_opened():
    read = Sealed.read(SEALED.data)
    assert (read.id, read.card.head) == (SEALED.id, SEALED.card.head)
    assert open_body(read, KEYS, ADA).data == PACKET.data
    offer = open_offer(Card.read(SEALED.card.data), KEYS, ADA)
    assert offer.id == PACKET.id
    assert torch.equal(offer.z, PACKET.z.half().float()) and torch.equal(offer.h, PACKET.h.half().float())
    assert RULES.check(open_body(read, KEYS, ADA).data).id == PACKET.id


def test_the_parts_are_what_cryptography_makes_of_them():
    head, offer, body_hash, signature, body = cut_apart(SEALED.data)
    content = ChaCha20Poly1305(KEYS.body).decrypt(body[:12], body[12:], b"body" + head)
    assert content == PACKET.data and hashlib.sha256(body).digest() == body_hash
    content = ChaCha20Poly1305(KEYS.offer).decrypt(offer[:12], offer[12:], b"offer" + head)
    assert len(content) == 32 + 4 * D_MODEL
    IDENTITIES["ada"].signing.public_key().verify(signature, joined([head, offer, body_hash]))
    assert SEALED.id == hashlib.sha256(joined([head, offer, body_hash, signature])).hexdigest()
    said = json.loads(head)
    assert (said["question"], said["answer"], said["client"]) == (PACKET.question, PACKET.answer, "ada")
    assert PACKET.target and PACKET.target not in head.decode(), "the target tag stays inside"


@pytest.mark.parametrize("part", ["offer", "body_hash", "signature", "body"])
def test_a_changed_byte_is_refused_anywhere(part):
    whole = {"body": SEALED.body, **{name: getattr(SEALED.card, name) for name in ("offer", "body_hash", "signature")}}
    changed = bytearray(whole[part])
    changed[len(changed) // 2] ^= 1
    card = SEALED.card if part == "body" else replace(SEALED.card, **{part: bytes(changed)})
    with pytest.raises(Refused, match=r"^[^\n]*sealed packet [^\n]*(signature of 'ada'|not the one its card names)"):
        open_body(Sealed(card, bytes(changed) if part == "body" else SEALED.body), KEYS, ADA)


def test_a_publisher_who_signs_what_does_not_open_is_refused_too():
    offer = resigned(replace(SEALED.card, offer=SEALED.card.offer[:-1] + b"x"))
    with pytest.raises(Refused, match=r"^the offer of sealed packet \w+ does not open"):
        open_offer(offer, KEYS, ADA)
    body = SEALED.body[:-1] + b"x"
    card = resigned(replace(SEALED.card, body_hash=hashlib.sha256(body).digest()))
    with pytest.raises(Refused, match=r"^the body of sealed packet \w+ does not open"):
        open_body(Sealed(card, body), KEYS, ADA)


def test_another_key_does_not_open():
    wrong = bytes(32)
    with pytest.raises(Refused, match=r"^the offer .* does not open: its key is another one") as told:
        open_offer(SEALED.card, PacketKeys(wrong, KEYS.body), ADA)
    assert told.value.__suppress_context__ or told.value.__context__ is None
    with pytest.raises(Refused, match=r"^the body .* does not open: its key is another one"):
        open_body(SEALED, PacketKeys(KEYS.offer, wrong), ADA)


def test_a_head_cannot_be_moved_to_another_packet():
    other, keys, _ = sealed_of(packet_of(2))
    swapped = Sealed(replace(SEALED.card, head=other.card.head), SEALED.body)
    with pytest.raises(Refused, match="does not have the signature of 'ada'"):
        open_body(swapped, KEYS, ADA)
    with pytest.raises(Refused, match=r"the offer of .* does not open"):  # its publisher itself has swapped them
        open_body(Sealed(resigned(swapped.card), SEALED.body), KEYS, ADA)
    mixed = replace(SEALED.card, offer=other.card.offer)
    with pytest.raises(Refused, match=r"the offer of .* does not open"):
        open_offer(resigned(mixed), keys, ADA)


@pytest.mark.parametrize("name", ["slot", "question", "answer", "client", "fingerprint"])
def test_a_head_that_is_not_that_of_the_packet_inside_is_refused(name):
    """Sealed by a member that lies about its own packet: everything opens, and the head is another one."""
    value = {"slot": 7, "client": "mallory"}.get(name, "ab" * 32)
    head = replace(SEALED.card.head, **{name: value})
    offer = encrypted(KEYS.offer, bytes(12), _content(PACKET), b"offer" + head.data)
    body = encrypted(KEYS.body, bytes(12), PACKET.data, b"body" + head.data)
    card = resigned(Card(head, offer, hashlib.sha256(body).digest(), b""), head.client)
    with pytest.raises(Refused, match=f"gives another {name} than the packet inside"):
        open_body(Sealed(card, body), KEYS, MEMBERS[head.client])


def test_an_offer_of_other_vectors_or_another_packet_is_refused():
    other = packet_of(2)
    for content, match in (
        (_content(other), "holds another packet than its offer names"),
        (_content(PACKET)[:32] + _content(other)[32:], "has other vectors than the packet inside"),
        (_content(PACKET)[:-1], r"has \d+ bytes and is none"),
        (_content(PACKET)[:32], "has 32 bytes and is none"),
        (_content(PACKET)[:-2] + b"\x00\x7c", "are not finite"),
    ):
        offer = encrypted(KEYS.offer, bytes(12), content, b"offer" + SEALED.card.head.data)
        card = resigned(replace(SEALED.card, offer=offer))
        with pytest.raises(Refused, match=match):
            open_body(Sealed(card, SEALED.body), KEYS, ADA)


def test_a_body_that_is_no_packet_gets_the_sentence_of_the_rules():
    data = b"x" * 100
    offer = encrypted(KEYS.offer, bytes(12), hashlib.sha256(data).digest() + _content(PACKET)[32:], _ad("offer"))
    body = encrypted(KEYS.body, bytes(12), data, _ad("body"))
    card = resigned(Card(SEALED.card.head, offer, hashlib.sha256(body).digest(), b""))
    with pytest.raises(Refused) as told:
        open_body(Sealed(card, body), KEYS, ADA)
    with pytest.raises(Refused) as expected:
        RULES.check(data)
    assert str(told.value) == str(expected.value)


def test_the_signature_of_somebody_else_is_refused():
    for card in (resigned(SEALED.card, "bob"), SEALED.card):
        with pytest.raises(Refused, match="does not have the signature of 'ada'"):
            open_offer(card, KEYS, MEMBERS["bob"] if card is SEALED.card else ADA)
    with pytest.raises(Refused, match="seal only your own"):
        seal(PACKET, IDENTITIES["bob"], 0, Draws())


def test_no_message_shows_a_key_or_what_is_inside():
    told = [repr(KEYS), repr(SEALED), repr(IDENTITIES["ada"]), repr(Draws())]
    for attempt in (
        lambda: open_body(SEALED, PacketKeys(bytes(32), bytes(32)), ADA),
        lambda: Sealed.read(SEALED.data[:-1]),
        lambda: open_offer(resigned(SEALED.card, "bob"), KEYS, ADA),
    ):
        with pytest.raises(Refused) as error:
            attempt()
        told.append(str(error.value))
    said = " ".join(told)
    for secret in (KEYS.offer, KEYS.body, PACKET.z.numpy().tobytes()[:8]):
        assert secret.hex() not in said and repr(secret)[2:-1] not in said
    assert PACKET.id[:12] not in said and PACKET.target[:12] not in said


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.integers(0, len(SEALED.data) - 1)), st.binary(max_size=3))
def test_readers_refuse_any_other_bytes_with_one_sentence(some, more):
    """Random bytes, truncated ones, and ones with something behind."""
    data = some if isinstance(some, bytes) else SEALED.data[:some] + more
    for reader in (Sealed.read, Card.read, Head.read):
        try:
            read = reader(data)
        except Refused as error:
            assert "\n" not in str(error)
        else:
            assert read.data == data


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SEALED.data) - 1), st.integers(1, 255))
def test_no_flipped_bit_is_opened(place, bits):
    data = bytearray(SEALED.data)
    data[place] ^= bits
    with pytest.raises(Refused) as told:
        open_body(Sealed.read(bytes(data)), KEYS, ADA)
    assert "\n" not in str(told.value)


def test_equal_draws_give_equal_packets_and_others_do_not(tmp_path):
    first = Draws(random.Random(1).randbytes)
    one, keys = seal(PACKET, IDENTITIES["ada"], 0, first)
    assert seal(PACKET, IDENTITIES["ada"], 0, first)[0].data == one.data
    assert seal(PACKET, IDENTITIES["ada"], 0, Draws())[0].id != one.id
    saved = Draws.load(first.save(tmp_path / "draws.json"))
    assert seal(PACKET, IDENTITIES["ada"], 0, saved)[0].data == one.data
    assert stat.S_IMODE((tmp_path / "draws.json").stat().st_mode) == 0o600
    _, others = seal(PACKET, IDENTITIES["ada"], 1, first)
    assert {keys.offer, keys.body}.isdisjoint((others.offer, others.body)), "another head, other keys"
    assert first.without([PACKET.id])(32, "packet", PACKET.id) != first(32, "packet", PACKET.id)
    assert seal(PACKET, IDENTITIES["ada"], 0, first.without([PACKET.id]))[0].id != one.id
    (tmp_path / "draws.json").write_text("[1]")
    with pytest.raises(ValueError, match="not a record of draws"):
        Draws.load(tmp_path / "draws.json")
    with pytest.raises(ValueError, match="a draw has 32 bytes and 12 are needed"):
        first(12, "packet", PACKET.id)


def test_packets_of_one_federation_have_one_size():
    compression = Compression(4, "int4")
    sizes = {len(sealed_of(packet_of(seed, slot=seed % 3, compression=compression))[0].data) for seed in range(9)}
    assert len(sizes) == 1


def _content(packet):
    vectors = torch.cat([packet.z, packet.h]).half().numpy().tobytes()
    return bytes.fromhex(packet.id) + vectors


def _ad(part):
    return part.encode() + SEALED.card.head.data
