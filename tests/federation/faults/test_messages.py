"""Messages that come twice, late, in another order, or again after hours: the handlers get them with real bytes.

Desk and nodes are in one process, because Flower would hide what a test wants to send. The last test loses messages at
random: whatever is lost, each packet is there once at the end.
"""

import random
from dataclasses import dataclass, field

import pytest

from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.weights import settled
from tests.federation.flower.loopback import Loopback, desk_of, nodes_of
from tests.federation.flower.test_desk import APART, ids, in_one_process

ALL = ClientConfig(Everyone())
NAMES = [part.name for part in APART]


@dataclass
class Hostile(Loopback):
    """Delivers turns twice, replies three times and in any order, and sends what it has recorded again.

    refused: what the nodes said to turns that came again later.
    """

    chance: random.Random = field(default_factory=lambda: random.Random(0))
    refused: list[str] = field(default_factory=list)

    def send(self, turns):
        for name, data in self.chance.sample([*turns.items()], len(turns)):
            node = self.nodes[name]
            reply = node.turn(data)
            assert node.turn(data) == reply, "a turn that comes twice gets the same reply"
            old = [turn for turn in self.turns if turn[0] == name]
            if old:
                _, then, said = self.chance.choice(old)
                self._again(node, then, said)
                self.ready.append((name, said))
            self.turns.append((name, data, reply))
            self.ready += [(name, reply)] * 3
        self.chance.shuffle(self.ready)

    def _again(self, node, turn, reply):
        try:
            assert node.turn(turn) == reply
        except Refused as error:
            self.refused.append(str(error))


def test_duplicates_replays_and_any_order_change_nothing(tmp_path):
    nodes, group = nodes_of(tmp_path, APART, ALL)
    transport = Hostile(nodes)
    lines = []
    desk = desk_of(tmp_path / "store.db", group, transport, progress=lines.append)
    desk.run(3)
    assert {name: ids(node) for name, node in nodes.items()} == in_one_process(tmp_path / "one.db", APART, config=ALL)
    check_whole(desk, nodes)
    assert not [line for line in lines if line.startswith("refused")]


def test_what_was_recorded_before_a_restart_is_refused_or_dropped_after_it(tmp_path):
    """The turns and replies of an earlier start of the server are sent again: nodes refuse, and the desk drops."""
    nodes, group = nodes_of(tmp_path, APART, ALL)
    transport = Hostile(nodes)
    first = desk_of(tmp_path / "store.db", group, transport)
    first.turn("join", 0), first.server.begin(0), first.turn("edit", 0), first.turn("retrieve", 0)
    recorded = [*transport.turns]
    first.server.store.close()
    desk = desk_of(tmp_path / "store.db", group, transport)
    desk.turn("join", 0)
    before = {name: ids(node) for name, node in nodes.items()}, desk.server.store.counts()
    for name, turn, reply in recorded:
        assert not desk._handled(name, reply)
        assert nodes[name].turn(turn) == reply, "a kept turn gets its kept reply, and nothing is done"
    assert ({name: ids(node) for name, node in nodes.items()}, desk.server.store.counts()) == before
    for slot in range(3):
        desk.server.begin(slot), desk.turn("edit", slot), desk.turn("retrieve", slot)
    assert {name: ids(node) for name, node in nodes.items()} == in_one_process(tmp_path / "one.db", APART, config=ALL)
    check_whole(desk, nodes)


@dataclass
class Lossy(Loopback):
    """Loses turns and replies at random, or brings replies a turn too late."""

    chance: random.Random = field(default_factory=lambda: random.Random(0))
    loses: bool = True

    def send(self, turns):
        for name, data in turns.items():
            fate = self.chance.choice(("arrives", "turn", "reply", "late")) if self.loses else "arrives"
            if fate == "turn":
                continue
            reply = self.nodes[name].turn(data)
            if fate != "reply":
                self.ready.append((name, reply))
            self.lost = self.lost - {name} | ({name} if fate == "late" else set())

    def alive(self):
        return [name for name in self.nodes if not self.loses or self.chance.random() > 0.2]

    def replies(self):
        if not self.loses:
            self.lost = set()
        return super().replies()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_lost_each_packet_is_there_once_when_messages_arrive_again(tmp_path, seed):
    nodes, group = nodes_of(tmp_path, APART, ALL)
    transport = Lossy(nodes, chance=random.Random(seed))
    desk = desk_of(tmp_path / "store.db", group, transport, patience=0.05)
    desk.turn("join", 0)
    for slot in range(2):
        desk.server.begin(slot), desk.turn("edit", slot), desk.turn("retrieve", slot)
    transport.loses, desk.patience = False, 60.0
    for slot in (2, 3):  # in the second one the dealer's key has reached everybody
        desk.server.begin(slot), desk.turn("edit", slot), desk.turn("retrieve", slot)
    check_whole(desk, nodes)
    everything = set().union(*({packet.id for _, packet in node.client.own.values()} for node in nodes.values()))
    assert {name: held(node) for name, node in nodes.items()} == dict.fromkeys(nodes, everything)


def held(node):
    return {*node.client.own, *node.client.adopted}


def check_whole(desk, nodes):
    """Every node has published every fact of its own, and the server has each packet once."""
    store = desk.server.store
    assert store.verify() == []
    _, records = store.since(0, "nobody")
    assert len(records) == len(store) == sum(len(node.client.own) for node in nodes.values())
    for part in APART:
        client = nodes[part.name].client
        due = [fact for facts in part.slots for fact in facts]
        assert sorted(fact.id for fact in client.texts.values()) == sorted(fact.id for fact in due)
        assert sum(number for name, _, number in store.counts() if name == part.name) == len(due)
        assert settled([packet for _, packet in client.own.values()], []), "and has them itself"
