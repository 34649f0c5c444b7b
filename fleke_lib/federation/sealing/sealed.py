"""Sealing a packet, and opening it: end-to-end encryption between members of a group.

A sealed packet has two ciphertexts, each under a fresh key of its own:

    offer   the packet's id, and z and h in 16 bits: what retrieval needs
    body    the packet's bytes

Both are made by ChaCha20-Poly1305 (RFC 8439) with the head as associated data, therefore nobody can move a ciphertext
under another head. The card is everything but the body: head, offer, SHA-256 of the body, and the Ed25519 signature of
the publisher over these three. The sealed id is the SHA-256 of the card. It covers all bytes, and the card can be
checked without the body.

Opening trusts nobody: neither the server, which cannot look inside, nor the publisher, which could seal one thing as
the offer and another as the body. Numbers and norms are for `registry.admission.Rules`, which each receiver applies.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from jaxtyping import Float
from torch import Tensor

from fleke_lib.federation.packets.messages import ID, cut_apart, joined
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.head import Head
from fleke_lib.federation.sealing.keys import KEY, SIGNATURE, Identity, Member

NONCE, TAG = 12, 16  # bytes that a ciphertext has more than its content
HALF = torch.float16.itemsize


@dataclass(frozen=True)
class PacketKeys:
    """The two keys of one sealed packet."""

    offer: bytes = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class Card:
    """A sealed packet without its body: who says what kind of thing, and the sealed offer."""

    head: Head
    offer: bytes = field(repr=False)
    body_hash: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @cached_property
    def data(self) -> bytes:
        return self.signed + joined([self.signature])

    @property
    def signed(self) -> bytes:
        """The bytes under the signature."""
        return joined([self.head.data, self.offer, self.body_hash])

    @cached_property
    def id(self) -> str:
        """SHA-256 of the card, in hexadecimal digits: the id of the sealed packet."""
        return hashlib.sha256(self.data).hexdigest()

    @classmethod
    def read(cls, data: bytes) -> "Card":
        """Read a card from its bytes. Raises Refused if they are not a card; no signature is checked."""
        return _read_card(_parts(data, 4))


@dataclass(frozen=True, eq=False)
class Sealed:
    """A sealed packet: its card and its encrypted body."""

    card: Card
    body: bytes = field(repr=False)

    @property
    def id(self) -> str:
        return self.card.id

    @property
    def data(self) -> bytes:
        return self.card.data + joined([self.body])

    @classmethod
    def read(cls, data: bytes) -> "Sealed":
        """Read a sealed packet from its bytes. Only its form is checked; opening it checks the rest.

        Raises:
            Refused: these bytes are not a sealed packet.
        """
        *parts, body = _parts(data, 5)
        return cls(_read_card(parts), body).checked()

    def checked(self) -> "Sealed":
        """This packet, if the body is the one that its card names. Raises Refused otherwise."""
        if len(self.body) < NONCE + TAG or hashlib.sha256(self.body).digest() != self.card.body_hash:
            raise Refused(f"the body of sealed packet {self.id[:12]} is not the one its card names: get it again.")
        return self


@dataclass(frozen=True, eq=False)
class OpenedOffer:
    """What a sealed packet offers: the id of the packet inside, and its z and h rounded to 16 bits."""

    id: str
    z: Float[Tensor, " d_model"] = field(repr=False)
    h: Float[Tensor, " d_model"] = field(repr=False)


def seal(packet: Packet, identity: Identity, epoch: int, draws: Draws) -> tuple[Sealed, PacketKeys]:
    """Seal a packet of one's own; the keys are drawn, and must be wrapped for the group (`epochs.Keyring.wrap`).

    Raises:
        Refused: the packet is another client's.
    """
    if packet.client != identity.name:
        raise Refused(f"packet {packet.id[:12]} is of {packet.client!r}, not of {identity.name!r}: seal only your own.")
    head = Head.of(packet, epoch)
    label = ("packet", packet.id, hashlib.sha256(head.data).hexdigest())
    keys = PacketKeys(draws(KEY, *label, "offer key"), draws(KEY, *label, "body key"))
    nonces = (draws(NONCE, *label, "offer nonce"), draws(NONCE, *label, "body nonce"))
    content = bytes.fromhex(packet.id) + torch.cat([packet.z, packet.h]).half().numpy().astype("<f2").tobytes()
    offer = encrypted(keys.offer, nonces[0], content, b"offer" + head.data)
    body = encrypted(keys.body, nonces[1], packet.data, b"body" + head.data)
    unsigned = Card(head, offer, hashlib.sha256(body).digest(), b"")
    card = Card(head, offer, unsigned.body_hash, identity.signing.sign(unsigned.signed))
    return Sealed(card, body), keys


def open_offer(card: Card, keys: PacketKeys, member: Member) -> OpenedOffer:
    """Open the offer of a sealed packet.

    Args:
        member: the publisher, as the group knows it.

    Raises:
        Refused: the signature is not this member's, the ciphertext was changed or has another key, or it holds no
            offer.
    """
    name = f"sealed packet {card.id[:12]}"
    if card.head.client != member.name or not member.signed(card.signature, card.signed):
        raise Refused(f"{name} does not have the signature of {card.head.client!r}: refuse it.")
    content = _decrypted(keys.offer, card.offer, b"offer" + card.head.data, f"the offer of {name}")
    numbers = content[ID:]
    if not numbers or len(numbers) % (2 * HALF):
        raise Refused(f"the offer of {name} has {len(content)} bytes and is none: refuse it.")
    z, h = torch.frombuffer(bytearray(numbers), dtype=torch.float16).float().view(2, -1)
    if not (z.isfinite().all() and h.isfinite().all()):
        raise Refused(f"the offer of {name} has numbers that are not finite: refuse it.")
    return OpenedOffer(content[:ID].hex(), z, h)


def open_body(sealed: Sealed, keys: PacketKeys, member: Member) -> Packet:
    """Open a sealed packet, and check it against its head and its offer.

    Raises:
        Refused: as `open_offer`, or the body is not the packet that head and offer announce.
    """
    sealed.checked()
    card, name = sealed.card, f"sealed packet {sealed.id[:12]}"
    offer = open_offer(card, keys, member)
    data = _decrypted(keys.body, sealed.body, b"body" + card.head.data, f"the body of {name}")
    if hashlib.sha256(data).hexdigest() != offer.id:
        raise Refused(f"{name} holds another packet than its offer names: refuse it.")
    try:
        packet = Packet.read(data)
    except ValueError as error:
        raise Refused(str(error)) from None
    if wrong := card.head.differs(packet):
        raise Refused(f"the head of {name} gives another {wrong} than the packet inside: refuse it.")
    if not (torch.equal(packet.z.half().float(), offer.z) and torch.equal(packet.h.half().float(), offer.h)):
        raise Refused(f"the offer of {name} has other vectors than the packet inside: refuse it.")
    return packet


def encrypted(key: bytes, nonce: bytes, content: bytes, associated: bytes) -> bytes:
    """The nonce, and the content under ChaCha20-Poly1305."""
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, associated)


def decrypted(key: bytes, sealed: bytes, associated: bytes) -> bytes | None:
    """What `encrypted` was given, or None if anything was changed or the key is another one."""
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:NONCE], sealed[NONCE:], associated)
    except (InvalidTag, ValueError):
        return None


def _decrypted(key: bytes, sealed: bytes, associated: bytes, name: str) -> bytes:
    if (content := decrypted(key, sealed, associated)) is None:
        raise Refused(f"{name} does not open: its key is another one, or it was changed.")
    return content


def _parts(data: bytes, number: int) -> list[bytes]:
    try:
        parts = cut_apart(data)
    except (TypeError, ValueError):
        parts = []
    if len(parts) != number:
        raise Refused(f"these {len(data)} bytes are not a sealed packet: send what `seal` made.")
    return parts


def _read_card(parts: list[bytes]) -> Card:
    head, offer, body_hash, signature = parts
    if len(offer) < NONCE + TAG or (len(body_hash), len(signature)) != (hashlib.sha256().digest_size, SIGNATURE):
        raise Refused("the parts of this sealed packet have not their sizes: send what `seal` made.")
    return Card(Head.read(head), offer, body_hash, signature)
