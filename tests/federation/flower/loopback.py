"""Nodes and a desk in one process: turns and replies as bytes, over a transport that a test can make fail."""

from dataclasses import dataclass, field
from pathlib import Path

from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.flower.desk import Desk, Unreached
from fleke_lib.federation.flower.node import Node, NodeSettings
from fleke_lib.federation.partitioning import Part
from fleke_lib.federation.provider import StoredProvider
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.exchange import BlindServer
from fleke_lib.federation.sealing.keys import Group, Identity
from fleke_lib.federation.sealing.store import SealedStore
from tests.federation.small import scenario

SECRET = b"the clients' own"


def node_of(folder: Path, part: Part, identity: Identity, group: Group, config: ClientConfig, stored=False) -> Node:
    """A node with the tiny model; the same folder gives the same node again. stored: it keeps vectors in its folder."""
    lm, shared, moments = scenario()
    settings = NodeSettings(folder / part.name, part.slots, identity, group, SECRET, config)
    return Node(settings, lambda: lm, lambda _: moments, StoredProvider if stored else lambda *_: shared)


def nodes_of(
    folder: Path, parts: tuple[Part, ...], config: ClientConfig, stored=False
) -> tuple[dict[str, Node], Group]:
    """A node for each part, and their group."""
    identities = {part.name: Identity.draw(part.name, Draws()) for part in parts}
    group = Group({name: one.member for name, one in identities.items()}, dealer=parts[0].name)
    return {part.name: node_of(folder, part, identities[part.name], group, config, stored) for part in parts}, group


def desk_of(path: Path, group: Group, transport, **how) -> Desk:
    """A desk over a new or an old file."""
    store = SealedStore(path, Rules.of(scenario()[0]), group)
    return Desk(BlindServer(store), tuple(group.members), transport, **how)


@dataclass
class Loopback:
    """Delivers turns at once.

    down: members that cannot be reached. lost: the replies of these members are computed and then held back, and come
    at the next look after the name is taken out.
    """

    nodes: dict[str, Node]
    down: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    turns: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    ready: list[tuple[str, bytes]] = field(default_factory=list)

    def alive(self):
        return [name for name in self.nodes if name not in self.down]

    def send(self, turns):
        for name, data in turns.items():
            reply = self.nodes[name].turn(data)
            self.turns.append((name, data, reply))
            self.ready.append((name, reply))

    def replies(self):
        found = {}
        for one in [one for one in self.ready if one[0] not in self.lost]:
            if one[0] not in found:
                found[one[0]] = one[1]
                self.ready.remove(one)
        return found


@dataclass
class Ghost(Loopback):
    """`ghost` is taken for alive, but its first turn reaches nobody; after so many more looks it is there.

    `Loopback.down` without it is what Flower says of a machine that failed a short time ago.
    """

    ghost: str = ""
    looks: float = 3
    met: bool = False

    def alive(self):
        if self.ghost in self.down:
            self.looks -= 1
            self.down = {self.ghost} if self.looks > 0 else set()
        return super().alive()

    def send(self, turns):
        for name, data in turns.items():
            if name != self.ghost or self.met:
                super().send({name: data})
            else:
                self.met, self.down = True, {name}
                self.ready.append((name, Unreached("nobody is there")))
