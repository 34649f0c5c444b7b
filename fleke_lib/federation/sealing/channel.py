"""A member's connection to the blind server: it seals what the client publishes and opens what others have published.

To the client it looks like `federation.server.Channel`: packets and their ids go in and out. What crosses is sealed.
There are two ways to fetch:

    WholeSlots   everything that others have published, as it is; what is wanted is looked up at home
    OnlyChosen   cards first, then the bodies of what the policy has chosen: fewer bytes, but the server sees the choice

A packet that does not open or does not fit its offer is the fault of its publisher or of the server. It is left out,
with the reason in `refusals`, and everything else goes on. So is a packet that overdraws its client's budget, which
each receiver counts for itself. A member that fetches whole slots holds sealed packets and their wrapped keys which it
has not opened. Destroying keys on the server does not reach these: when somebody withdraws, each member calls `forget`.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from fleke_lib.federation.packets.messages import ID, LENGTH, Line, Offers, cut_apart, joined
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.epochs import Deal, Keyring, accept, deal
from fleke_lib.federation.sealing.keys import Group, Identity
from fleke_lib.federation.sealing.sealed import Card, OpenedOffer, PacketKeys, Sealed, open_body, open_offer, seal
from fleke_lib.federation.sealing.spending import Spending

ROUNDING = 2**-10  # of a vector's norm: more than rounding it to 16 bits changes


@dataclass
class Held:
    """A sealed packet whose offer this member has opened; its body comes later, or with it."""

    card: Card
    keys: PacketKeys = field(repr=False)
    offer: OpenedOffer
    body: bytes | None = field(default=None, repr=False)


@dataclass(kw_only=True)
class SealedChannel(Line):
    """What both ways to fetch have in common.

    group: whose signatures are accepted; set it when the group changes.
    keyring: the epoch keys that this member has; `join` gets them.
    refusals: by id, why a packet was refused; by the sealed id if it did not open or claimed another one's packet.
    """

    identity: Identity
    group: Group
    rules: Rules
    draws: Draws = field(default_factory=Draws)
    keyring: Keyring = field(default_factory=Keyring)
    refusals: dict[str, str] = field(default_factory=dict)
    _held: dict[str, list[Held]] = field(default_factory=dict, repr=False)  # by packet id: two may claim one id
    _fetched: dict[str, int] = field(default_factory=dict, repr=False)  # bytes of the bodies of the last `get`
    _spending: Spending = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._spending = Spending(self.rules)

    def deal(self, key: bytes, members: Iterable[str]) -> None:
        """Deal the key of the group's epoch to members; only the dealer can."""
        for name in members:
            one = deal(key, self.group.epoch, self.identity, self.group.member(name), self.draws)
            self.call("deal", one.data)

    def join(self) -> None:
        """Get the epoch keys that were dealt to this member. Raises Refused if one of them is not the dealer's."""
        for data in cut_apart(self.call("dealt", b"")):
            given = Deal.read(data)
            if given.epoch not in self.keyring.keys:
                self.keyring = self.keyring.plus(given.epoch, accept(given, self.identity, self.group))

    def put(self, data: bytes) -> str:
        """Seal and publish a packet of one's own; its keys are wrapped under the present epoch's key."""
        packet = Packet.read(data)
        sealed, keys = seal(packet, self.identity, self.group.epoch, self.draws)
        self._publish(sealed, joined([sealed.data, self.keyring.wrap(sealed.card, keys, self.draws)]), packet.id)
        self._hold(Held(sealed.card, keys, open_offer(sealed.card, keys, self.identity.member), sealed.body))
        return packet.id

    def find(self, tag: str) -> bytes | None:
        """A packet with this answer tag that opens, the earliest first; or None."""
        self._look_for(tag)
        found = [one for claims in self._held.values() for one in claims if one.card.head.answer == tag]
        for one in sorted(found, key=lambda one: (one.card.head.slot, one.offer.id)):
            (data,) = self.get([one.offer.id])
            if data:
                return data
        return None

    def offers(self, slot: int) -> Offers:
        """What other members have published in this slot, as far as it opens."""
        self._look_into(slot)
        rows = [(one.card.head, one.offer) for id in sorted(self._held) if (one := self._one(id))]
        found = [offer for head, offer in rows if head.slot == slot and head.client != self.client]
        if not found:
            return Offers((), torch.empty(0, 0), torch.empty(0, 0))
        ids, z, h = zip(*((offer.id, offer.z, offer.h) for offer in found), strict=True)
        return Offers(ids, torch.stack(z), torch.stack(h))

    def get(self, ids: Sequence[str]) -> list[bytes]:
        """The packets with these ids, in their order.

        Empty bytes stand for one that does not open, or that overdraws its client's budget.
        """
        self._fetched = {}
        self._fetch([one for id in ids for one in self._held.get(id, ()) if one.body is None])
        return [self._weighed(one, self._opened(one, id)) if (one := self._one(id)) else b"" for id in ids]

    def bytes_of(self, id: str, data: bytes) -> dict[str, int]:
        """The bytes sent and received for one packet that the last `get` has returned."""
        size = self._fetched.get(id)
        return {"sent": 0, "received": 0} if size is None else {"sent": ID, "received": size + LENGTH}

    def refuse(self, id: str, error: ValueError) -> str:
        """Record why a packet was refused, and return it; a reason that was found while it was opened stays."""
        return self.refusals.setdefault(id, str(error))

    def forget(self, clients: Collection[str] = (), packets: Collection[str] = ()) -> None:
        """Drop what this member holds of clients, or of packets by their ids, opened or not, keys included."""
        for id, claims in list(self._held.items()):
            self._held[id] = []
            for one in claims:
                if id in packets or one.card.head.client in clients:
                    self._spending.drop(one.card)
                else:
                    self._held[id].append(one)

    def _publish(self, sealed: Sealed, message: bytes, id: str) -> None:
        """Send the message with a sealed packet, inside which is packet `id`; the server must name it by its id."""
        check_named(sealed.id, self.call("put", message))

    def _look_for(self, tag: str) -> None:
        raise NotImplementedError

    def _look_into(self, slot: int) -> None:
        raise NotImplementedError

    def _fetch(self, held: Sequence[Held]) -> None:
        raise NotImplementedError

    def _read(self, record: bytes) -> None:
        """Open the offer of a record, and hold it; record why, if it cannot be."""
        id = ""
        try:
            first, *body, wrapped = cut_apart(record)
            card = Card.read(first)
            id = card.id
            member, keys = self.group.member(card.head.client), self.keyring.unwrap(card, wrapped)
            offer = open_offer(card, keys, member)
            if fault := self._fault(card, offer):
                raise Refused(f"the offer of sealed packet {id[:12]} {fault}: refuse it.")
            if card.head.client != self.client:
                self._spending.count(card, offer.id)
            self._hold(Held(card, keys, offer, *body[:1]))
        except ValueError as error:
            self.refuse(id, error)

    def _hold(self, new: Held) -> None:
        claims = self._held.setdefault(new.offer.id, [])
        if new.card.id not in [one.card.id for one in claims]:
            claims.append(new)

    def _fault(self, card: Card, offer: OpenedOffer) -> str:
        """What the rules refuse about an offer; the body is checked when it is opened."""
        if card.head.fingerprint != self.rules.fingerprint:
            return "is of another model"
        if len(offer.z) != self.rules.d_model:
            return f"has vectors of width {len(offer.z)} instead of {self.rules.d_model}"
        h, z, residual = (float(v.double().norm()) for v in (offer.h, offer.z, offer.z - offer.h))
        slack = ROUNDING * (h + z)
        if h > self.rules.state + slack or residual > self.rules.clamp * h + slack:
            return f"has a norm of {h:.3g} for h and of {residual:.3g} for z - h, which is more than the rules admit"
        return ""

    def _one(self, id: str) -> Held | None:
        """The sealed packet with this packet inside. Of several that claim to have it, the one that opens."""
        claims = self._held.get(id, [])
        if len(claims) > 1:
            self._fetch([one for one in claims if one.body is None])
            claims = self._held[id] = [one for one in claims if self._opened(one, one.card.id)][:1]
        return claims[0] if claims else None

    def _weighed(self, one: Held, data: bytes) -> bytes:
        """The packet's bytes; empty ones and a refusal if its weight overdraws its client's budget."""
        if not data or one.card.head.client == self.client or not self.rules.budget.weighs:
            return data
        try:
            packet = self.rules.check(data)
        except Refused:
            return data  # the client checks it again, and says why
        try:
            self._spending.weigh(one.card, packet)
        except Refused as error:
            self.refuse(one.offer.id, error)
            return b""
        return data

    def _opened(self, one: Held, id: str) -> bytes:
        """The packet's bytes, or empty ones and a refusal under this id."""
        try:
            return open_body(Sealed(one.card, one.body or b""), one.keys, self.group.member(one.card.head.client)).data
        except Refused as error:
            self.refuse(id, error)
            return b""


@dataclass(kw_only=True)
class WholeSlots(SealedChannel):
    """Fetch everything that others have published, once; the server sees no choice."""

    _last: int = 0

    def _look_for(self, tag: str) -> None:
        self._update()

    def _look_into(self, slot: int) -> None:
        self._update()

    def _fetch(self, held: Sequence[Held]) -> None:
        """All bodies came with their cards."""

    def _update(self) -> None:
        number, *records = cut_apart(self.call("since", json.dumps([self._last, self.client]).encode()))
        if not number.isdigit() or len(number) > 10 or int(number) < self._last:
            raise ValueError("the server's answer does not begin with the number of its last packet: ask again.")
        self._last = int(number)
        for record in records:
            self._read(record)


@dataclass(kw_only=True)
class OnlyChosen(SealedChannel):
    """Fetch cards, and the bodies of chosen packets alone; the server sees the choice."""

    def _look_for(self, tag: str) -> None:
        for record in cut_apart(self.call("find", bytes.fromhex(tag))):
            self._read(record)

    def _look_into(self, slot: int) -> None:
        for record in cut_apart(self.call("offers", json.dumps([slot, self.client]).encode())):
            self._read(record)

    def _fetch(self, held: Sequence[Held]) -> None:
        if not held:
            return
        bodies = cut_apart(self.call("get", b"".join(bytes.fromhex(one.card.id) for one in held)))
        if len(bodies) != len(held):
            raise ValueError(f"the server sent {len(bodies)} bodies for {len(held)} ids: ask again.")
        for one, body in zip(held, bodies, strict=True):
            one.body = body
            self._fetched[one.offer.id] = len(body)


def check_named(id: str, answer: bytes) -> None:
    """Raises ValueError if the server's answer to a sealed packet is not its id."""
    if answer.hex() != id:
        raise ValueError(f"the server names {answer.hex()[:12]!r} and not {id[:12]}: publish nothing there.")
