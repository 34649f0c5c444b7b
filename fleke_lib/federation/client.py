"""A client: one organisation with its facts, its channel to the server, and the packets that it holds.

In every slot it edits its own facts and publishes them as packets. Then it reads what others have published, and adopts
the packets that its policy chooses. Text stays with the client: only packets and keyed tags leave it.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.federation.ledger import Event
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.messages import Offers
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.protection import Connection
from fleke_lib.federation.provider import PreparedFact, Provider
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.retrieval.policies import Policy
from fleke_lib.federation.retrieval.representations import represent
from fleke_lib.federation.warm_start import COLD, mapped, warm_starts
from fleke_lib.mkv.edit_map import EditMap

OFFERED = ("raw", "residual", "centred")  # what can be computed from the z and h in an offer
DISTRUST = "adopt nothing from this server before its registry verifies."


@dataclass(frozen=True)
class ClientConfig:
    """How a client behaves.

    policy: which offers it adopts.
    representation: which vectors the policy compares, see `retrieval.represent`.
    looks_back: compare all own packets with all offers so far; otherwise, as published, only those of the current slot
        with each other. Adopted packets stay, so over the slots a policy adopts more than it would choose at the end.
    reuse: ask for another client's packet with the same answer before optimising an MKV.
    compression: of the packets that it publishes.
    warm: publish a tag of the target, and start an optimisation at the mean residual of the held packets that have the
        same tag.
    map: start all other optimisations at this map's prediction, see `edit_map`. A packet with the same target has
        priority, because it was optimised and the map only predicts. On atlas facts both are about equally close.

    Raises:
        ValueError: offers cannot be compared by this representation.
    """

    policy: Policy
    representation: str = "centred"
    looks_back: bool = True
    reuse: bool = True
    compression: Compression = field(default_factory=Compression)
    warm: bool = False
    map: EditMap | None = None

    def __post_init__(self) -> None:
        if self.representation not in OFFERED:
            raise ValueError(f"offers cannot be compared by {self.representation!r}: give one of {', '.join(OFFERED)}.")


@dataclass
class Client:
    """The state of one client.

    own, adopted: by packet id, the slot in which the packet came and the packet. dropped: adopted ones that were
        refused later.
    refused: why packets were refused after opening, by id; they are no offers any more.
    texts: by packet id, the fact of each own packet; never sent.
    doubt: why a packet is not one of a fact that it has the tags of, or an empty string; see `federation.reuse`.
    """

    channel: Connection
    rules: Rules
    tags: Tags
    provider: Provider
    config: ClientConfig
    own: dict[str, tuple[int, Packet]] = field(default_factory=dict)
    adopted: dict[str, tuple[int, Packet]] = field(default_factory=dict)
    dropped: dict[str, tuple[int, Packet]] = field(default_factory=dict)
    texts: dict[str, Fact] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    doubt: Callable[[Packet, Fact], str] = lambda packet, fact: ""
    _known: dict[str, Fact] = field(default_factory=dict)  # own facts, by answer tag
    _offers: list[Offers] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.channel.client

    def edit(self, facts: Sequence[Fact], slot: int) -> list[Event]:
        """Get a packet for each fact: reuse a published one, or compute and publish a new one.

        Raises:
            ValueError: a server that reads packets sent one that the rules refuse, or one without the requested tag.
        """
        check_list(facts)
        events, missing = [], []
        for fact in facts:
            before, known = self._crossed(), set(self.refused)
            found = self.channel.find(self.tags.answer(fact)) if self.config.reuse else None
            packet = None if found is None else self._reusable(found, fact)
            name = "" if found is None else hashlib.sha256(found).hexdigest()
            if packet is None:
                missing.append(fact)
                kind, name = ("refused", name) if name in self.refused.keys() - known else ("asked", "")
            else:
                self._keep(packet, fact, slot)
                kind = "reused"
            events.append(Event(kind, slot, self.name, name, **self._since(before)))
            self._drop_misled(fact)
            more = [other for other in self.refused if other not in known and other != name]
            events += [Event("refused", slot, self.name, other) for other in more]
        tagged = ("question", "answer", *(("target",) if self.config.warm else ()))
        for fact, prepared in zip(missing, self._make(missing), strict=True):
            tags = {name: getattr(self.tags, name)(fact) for name in tagged}
            packet = pack(prepared.trajectory, prepared.mkv, self.name, slot, tags, self.config.compression)
            before = self._crossed()
            self.channel.put(packet.data)
            self._keep(packet, fact, slot)
            work = {"steps": prepared.mkv.steps, "seconds": prepared.seconds}
            events.append(Event("optimised", slot, self.name, packet.id, prepared.sources, **work))
            events.append(Event("published", slot, self.name, packet.id, **self._since(before)))
        return events

    def retrieve(self, slot: int) -> list[Event]:
        """Read the slot's offers, and adopt what the policy chooses.

        A packet with the answer tag of an own fact and other vectors is left out, and a "refused" event says so. So is
        one that the rules refuse, from a server that cannot read packets.

        Raises:
            ValueError: a server that reads packets sent one that the rules refuse, or another one than was requested.
        """
        before = self._crossed()
        self._offers.append(self.channel.offers(slot))
        events = [Event("asked", slot, self.name, **self._since(before))]
        chosen = self._chosen(slot)
        for name, data in zip(chosen, self.channel.get(chosen) if chosen else [], strict=True):
            cost = self.channel.bytes_of(name, data)
            try:
                packet = self._read(data)
                if packet.id != name:
                    raise ValueError(f"packet {packet.id[:12]} came where {name[:12]} was asked for: {DISTRUST}")
            except ValueError as error:
                self.refused[name] = self.channel.refuse(name, error)
                events.append(Event("refused", slot, self.name, name, **cost))
                continue
            if (fact := self._known.get(packet.answer)) and self._doubted(packet, fact):
                events.append(Event("refused", slot, self.name, name, **cost))
                continue
            self.adopted[packet.id] = (slot, packet)
            events.append(Event("adopted", slot, self.name, packet.id, **cost))
        return events

    def _reusable(self, data: bytes, fact: Fact) -> Packet | None:
        """The packet that was found for a fact, or None if it must be refused."""
        try:
            packet = self._read(data)
            if packet.answer != self.tags.answer(fact):
                raise ValueError(f"packet {packet.id[:12]} does not carry the tag that was asked for: {DISTRUST}")
        except ValueError as error:
            name = hashlib.sha256(data).hexdigest()
            self.refused[name] = self.channel.refuse(name, error)
            return None
        return None if self._doubted(packet, fact) else packet

    def _doubted(self, packet: Packet, fact: Fact) -> bool:
        """Whether a packet with a fact's tags is refused because it is not one of this fact; the server cannot know."""
        if packet.id not in self.refused and packet.id not in self.own and (why := self.doubt(packet, fact)):
            who = f"packet {packet.id[:12]} of {packet.client!r}"
            self.refused[packet.id] = f"{who} {why}: its tags are of this fact and its vectors are not."
        return packet.id in self.refused

    def _drop_misled(self, fact: Fact) -> None:
        """Drop adopted packets that have this fact's answer tag and turn out not to be of it."""
        tag = self.tags.answer(fact)
        same = [packet for _, packet in self.adopted.values() if packet.answer == tag]
        gone = [packet.id for packet in same if self._doubted(packet, fact)]
        self.dropped |= {name: self.adopted.pop(name) for name in gone}

    def _make(self, facts: Sequence[Fact]) -> list[PreparedFact]:
        cold = mapped(self.config.map) if self.config.map else COLD
        if not self.config.warm:
            return self.provider(facts) if cold is COLD else self.provider(facts, [cold] * len(facts))
        here = [packet for _, packet in (self.own | self.adopted).values()]
        return self.provider(facts, warm_starts(facts, here, self.tags, cold))

    def _chosen(self, slot: int) -> list[str]:
        """Ids of the offers that the policy chooses and that this client does not hold yet."""
        back = self.config.looks_back
        own = _in_order((packet.id, packet.z, packet.h) for at, packet in self.own.values() if back or at == slot)
        offered = _in_order(
            row
            for offers in (self._offers if back else self._offers[-1:])
            for row in zip(offers.ids, offers.z, offers.h, strict=True)
            if row[0] not in self.own and row[0] not in self.refused  # reused: whoever published it, it is no offer
        )
        if not own or not offered:
            return []
        ids, z, h = zip(*own, *offered, strict=True)
        compared = represent(self.config.representation, torch.stack(z), torch.stack(h))
        chosen = self.config.policy.choose(compared[: len(own)], compared[len(own) :])
        return [name for name, yes in zip(ids[len(own) :], chosen.tolist(), strict=True) if yes and not self._has(name)]

    def _read(self, data: bytes) -> Packet:
        """Check a packet from the server by the rules that the server applies: even an honest server can err."""
        return self.rules.check(data)

    def _has(self, name: str) -> bool:
        return name in self.own or name in self.adopted

    def _keep(self, packet: Packet, fact: Fact, slot: int) -> None:
        """Hold a packet for an own fact; a packet that was adopted before is an own one from now on."""
        self.adopted.pop(packet.id, None)
        self.own[packet.id] = (slot, packet)
        self.texts[packet.id] = fact
        self._known[packet.answer] = fact

    def _crossed(self) -> tuple[int, int]:
        return self.channel.sent, self.channel.received

    def _since(self, before: tuple[int, int]) -> dict[str, int]:
        return {"sent": self.channel.sent - before[0], "received": self.channel.received - before[1]}


def _in_order(rows: Iterable[tuple[str, torch.Tensor, torch.Tensor]]) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Ids with their z and h in an order that does not depend on who published them: rounding depends on the order."""
    return sorted(rows, key=lambda row: (row[1].numpy().tobytes(), row[0]))
