"""Epochs: the group's key, how it is dealt to members, and how it wraps the keys of packets.

An epoch key is 32 random bytes. The dealer gives it to each present member: a fresh X25519 key agrees on a secret with
the member's key, HKDF-SHA256 (RFC 5869) makes a key of that secret, ChaCha20-Poly1305 encrypts the epoch key, and the
dealer signs the whole. When a member leaves, a new epoch begins with a new key. The former member therefore opens
nothing that is published afterwards; what was published before, it could open then. A new member gets the present key,
and an earlier one only if it is dealt, too.

The two keys of a packet are wrapped under the epoch key, with the sealed id as associated data. Nonces are random, 96
bits: one epoch key must not wrap more than 2^32 packets (NIST SP 800-38D, section 8.3, for nonces of this size in GCM).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.registry.admission import LAST_SLOT, Refused
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.keys import KEY, Group, Identity, Member
from fleke_lib.federation.sealing.sealed import NONCE, TAG, Card, PacketKeys, decrypted, encrypted

FORMAT = "fleke-deal-1"
WRAPPED = NONCE + 2 * KEY + TAG  # bytes of a packet's wrapped keys


@dataclass(frozen=True)
class Deal:
    """An epoch key on its way to one member.

    epoch, dealer, member: readable by everybody. ephemeral: the dealer's fresh X25519 key. secret: the encrypted key.
    """

    epoch: int
    dealer: str
    member: str
    ephemeral: bytes = field(repr=False)
    secret: bytes = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    @property
    def about(self) -> bytes:
        """The readable part: format, epoch, dealer and member."""
        return json.dumps([FORMAT, self.epoch, self.dealer, self.member], separators=(",", ":")).encode("ascii")

    @property
    def signed(self) -> bytes:
        return joined([self.about, self.ephemeral, self.secret])

    @property
    def data(self) -> bytes:
        return self.signed + joined([self.signature])

    @classmethod
    def read(cls, data: bytes) -> "Deal":
        """Read a deal from its bytes. Raises Refused if they are none; no signature is checked."""
        try:
            about, *rest = cut_apart(data)
            form, epoch, dealer, member = json.loads(about)
            deal = cls(epoch, dealer, member, *rest)
            right = (form, type(epoch), type(dealer), type(member), len(rest)) == (FORMAT, int, str, str, 3)
            right = right and 0 <= epoch <= LAST_SLOT and deal.data == data
        except (RecursionError, TypeError, ValueError):
            right = False
        if not right:
            raise Refused(f"these {len(data)} bytes are not a dealt key: send what `deal` made.")
        return deal


def deal(key: bytes, epoch: int, dealer: Identity, member: Member, draws: Draws) -> Deal:
    """Encrypt an epoch key for one member, and sign it."""
    label = ("deal", str(epoch), dealer.name, member.name, member.agreement.hex(), hashlib.sha256(key).hexdigest())
    ephemeral = X25519PrivateKey.from_private_bytes(draws(KEY, *label, "ephemeral key"))
    public, nonce = ephemeral.public_key().public_bytes_raw(), draws(NONCE, *label, "nonce")
    about = Deal(epoch, dealer.name, member.name, public, b"").about
    secret = encrypted(_agreed(ephemeral, member.agreement, public, member.agreement, about), nonce, key, about)
    unsigned = Deal(epoch, dealer.name, member.name, public, secret)
    return Deal(epoch, dealer.name, member.name, public, secret, dealer.signing.sign(unsigned.signed))


def accept(given: Deal, identity: Identity, group: Group) -> bytes:
    """The epoch key of a deal.

    Raises:
        Refused: the deal is for somebody else, not of the group's dealer, of an epoch to come, or was changed.
    """
    if given.member != identity.name:
        raise Refused(f"this key is dealt to {given.member!r} and not to {identity.name!r}: ask for your own.")
    dealer = group.member(group.dealer)
    if given.dealer != dealer.name or not dealer.signed(given.signature, given.signed):
        raise Refused(f"the key dealt for epoch {given.epoch} does not have the dealer's signature: refuse it.")
    if given.epoch > group.epoch:
        raise Refused(f"this key is of epoch {given.epoch} and the group is at {group.epoch}: get the new list.")
    mine = identity.member.agreement
    try:
        agreed = _agreed(identity.agreement, given.ephemeral, given.ephemeral, mine, given.about)
    except ValueError:  # a key that agrees on zeros
        agreed = bytes(KEY)
    key = decrypted(agreed, given.secret, given.about)
    if key is None or len(key) != KEY:
        raise Refused(f"the key dealt for epoch {given.epoch} does not open: ask the dealer to deal it again.")
    return key


@dataclass(frozen=True)
class Keyring:
    """The epoch keys that a member has, by epoch."""

    keys: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def plus(self, epoch: int, key: bytes) -> "Keyring":
        return Keyring({**self.keys, epoch: key})

    def wrap(self, card: Card, keys: PacketKeys, draws: Draws) -> bytes:
        """A packet's two keys under the key of its epoch."""
        nonce = draws(NONCE, "wrap", card.id, hashlib.sha256(self._key(card)).hexdigest())
        return encrypted(self._key(card), nonce, keys.offer + keys.body, _bound(card))

    def unwrap(self, card: Card, wrapped: bytes) -> PacketKeys:
        """The keys of a packet.

        Raises:
            Refused: this member was not dealt the key of the packet's epoch, or the wrapped keys do not open with it.
        """
        keys = decrypted(self._key(card), wrapped, _bound(card))
        if keys is None or len(keys) != 2 * KEY:
            raise Refused(f"the keys of sealed packet {card.id[:12]} do not open with this group's key: refuse it.")
        return PacketKeys(keys[:KEY], keys[KEY:])

    def _key(self, card: Card) -> bytes:
        if card.head.epoch not in self.keys:
            raise Refused(f"the key of epoch {card.head.epoch} was not dealt to this member: ask the dealer for it.")
        return self.keys[card.head.epoch]


def _bound(card: Card) -> bytes:
    return b"keys" + bytes.fromhex(card.id)


def _agreed(mine: X25519PrivateKey, other: bytes, ephemeral: bytes, receiver: bytes, about: bytes) -> bytes:
    """The key that both sides derive, bound to both public keys and to what is readable. Raises ValueError."""
    shared = mine.exchange(X25519PublicKey.from_public_bytes(other))
    return HKDF(SHA256(), KEY, salt=None, info=about + ephemeral + receiver).derive(shared)
