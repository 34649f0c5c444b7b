"""Federations over turns on a tiny model: the weights of one process bit for bit, and what they survive."""

import pytest
import torch

from fleke_lib.edit.edit import Edit
from fleke_lib.federation.client import Client, ClientConfig
from fleke_lib.federation.flower.turns import Answer, Turn, TurnReply
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.retrieval.policies import Everyone, TopK
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.sealing.sealing import Sealing
from fleke_lib.federation.weights import cumulative, settled
from tests.federation.flower.loopback import SECRET, Ghost, Loopback, desk_of, node_of, nodes_of
from tests.federation.small import LAYERS, facts, scenario

PARTS = partition(facts(), 3, slots=3, overlap=0.3, conflicts=0.1, seed=1)
APART = partition(facts(), 3, slots=3, conflicts=0.1, seed=1)  # nobody holds another's fact, not even in a later slot
TOP = ClientConfig(TopK(2))


def federation(folder, config=TOP, stored=False, parts=PARTS, **how):
    """Nodes, the transport between them, and a desk."""
    nodes, group = nodes_of(folder, parts, config, stored)
    transport = Loopback(nodes)
    return nodes, transport, desk_of(folder / "store.db", group, transport, **how)


def same_edit(one, other):
    return one.layers == other.layers and all(torch.equal(one.delta(at), other.delta(at)) for at in LAYERS)


def ids(node):
    return {packet.id for packet in node.packets()}


def in_one_process(where, parts=PARTS, late=(), config=TOP):
    """What each client holds in one process; `late` members miss slot 1, and do everything in slot 2."""
    lm, provider, _ = scenario()
    rules, names = Rules.of(lm), [part.name for part in parts]
    with Sealing().connect(where, rules, names) as connected:
        clients = [Client(connected.clients[n], rules, Tags(SECRET), provider, config) for n in names]
        for slot in range(3):
            connected.begin(slot)
            here = [(c, part) for c, part in zip(clients, parts, strict=True) if slot != 1 or c.name not in late]
            for client, part in here:
                missed = part.slots[1] if slot == 2 and client.name in late else ()
                client.edit([*missed, *part.slots[slot]], slot)
            for client, _ in here:
                for seen in (1, 2) if slot == 2 and client.name in late else (slot,):
                    client.retrieve(seen)
    return {c.name: {p.id for p in settled(*([p for _, p in h.values()] for h in (c.own, c.adopted)))} for c in clients}


@pytest.mark.parametrize("config", [TOP, ClientConfig(Everyone(), warm=True)], ids=["top", "warm"])
def test_turns_give_the_weights_of_one_process_bit_for_bit(tmp_path, config):
    lm, provider, moments = scenario()
    nodes, transport, desk = federation(tmp_path, config)
    desk.run(3)
    run = run_fedit(lm, PARTS, config, provider=provider, secret=SECRET, protection=Sealing())
    assert run.ledger.select("reused") and run.ledger.select("adopted")
    for name, node in nodes.items():
        assert same_edit(Edit.load(node.edit_file), cumulative(run, name, moments))
        assert node.client.own.keys() == {packet.id for packet in run.own(name)}
    assert len(transport.turns) == len(nodes) * (1 + 2 * 3 + 1), "two turns a slot, however many facts"
    crossed = b"".join(sent + reply for _, sent, reply in transport.turns)
    assert not any(fact.subject.encode() in crossed for fact in facts() if len(fact.subject) > 4)
    assert desk.sent == sum(len(sent) for _, sent, _ in transport.turns)
    assert desk.received == sum(len(reply) for _, _, reply in transport.turns)


def test_a_node_that_is_down_for_a_slot_catches_up(tmp_path):
    nodes, transport, desk = federation(tmp_path / "turns", parts=APART)
    late, lines = APART[1].name, []
    desk.progress = lines.append
    desk.turn("join", 0)
    for slot in range(3):
        transport.down = {late} if slot == 1 else set()
        desk.server.begin(slot)
        assert (late in desk.turn("edit", slot)) == (late in desk.turn("retrieve", slot)) == (slot != 1)
    assert {name: ids(node) for name, node in nodes.items()} == in_one_process(tmp_path / "one.db", APART, {late})
    assert any("slot 1, edit: 2 of 3 nodes" in line for line in lines)


@pytest.mark.parametrize("back", [True, False])
def test_the_first_turn_waits_for_a_node_that_cannot_be_reached_yet(tmp_path, back):
    """A node that is started again at once is refused by Flower, which takes the process before it for alive."""
    nodes, group = nodes_of(tmp_path / "turns", APART, TOP)
    late, lines = APART[1].name, []
    transport = Ghost(nodes, ghost=late, looks=3 if back else float("inf"))
    how = {"number": 3, "patience": 60.0 if back else 1.0, "progress": lines.append}
    done = desk_of(tmp_path / "turns" / "store.db", group, transport, **how).run(3)
    assert f"refused from {late}: nobody is there" in lines
    assert (late in done) == back and len(done) == 2 + back
    if back:
        assert {name: ids(node) for name, node in nodes.items()} == in_one_process(tmp_path / "one.db", APART)


def test_the_first_turn_does_not_wait_for_more_than_the_number(tmp_path):
    nodes, group = nodes_of(tmp_path, APART, TOP)
    transport = Ghost(nodes, ghost=APART[1].name, looks=float("inf"))
    assert len(desk_of(tmp_path / "store.db", group, transport, number=2).run(3)) == 2, "the patience is ten minutes"


def test_a_reply_that_comes_too_late_is_dropped_and_its_packets_come_in_the_next_slot(tmp_path):
    """The node has computed and sealed, and believes that it has published; nothing is lost, nothing is there twice."""
    nodes, transport, desk = federation(tmp_path / "turns", parts=APART)
    late = APART[1].name
    desk.turn("join", 0)
    for slot in range(3):
        desk.server.begin(slot)
        if slot == 1:
            transport.lost = {late}
            desk.patience = 0.5
            assert late not in desk.turn("edit", slot)
            transport.down = {late}
            desk.turn("retrieve", slot)
            transport.lost, transport.down = set(), set()
        else:
            desk.patience = 60.0
            desk.turn("edit", slot), desk.turn("retrieve", slot)
    assert {name: ids(node) for name, node in nodes.items()} == in_one_process(tmp_path / "one.db", APART, {late})
    answers = [packet.answer for _, packet in nodes[late].client.own.values() if packet.client == late]
    stored = [row for row in desk.server.store.counts() if row[0] == late]
    assert sum(number for _, _, number in stored) == len(answers) == len(set(answers))


def test_a_node_that_was_killed_is_the_same_again_from_its_folder(tmp_path):
    nodes, transport, desk = federation(tmp_path, stored=True)
    desk.turn("join", 0), desk.server.begin(0), desk.turn("edit", 0), desk.turn("retrieve", 0)
    name, node = next((n, node) for n, node in nodes.items() if node.client.adopted)
    part = next(part for part in PARTS if part.name == name)
    again = node_of(tmp_path, part, node.settings.identity, *group_config(node), stored=True)
    assert ids(again) == ids(node) and again.client.own.keys() == node.client.own.keys()
    assert again.channel.first == node.channel.first and again.channel.sent_off == node.channel.sent_off
    _, data, reply = next(turn for turn in reversed(transport.turns) if turn[0] == name)
    assert again.turn(data) == reply, "a turn that comes twice gets the same reply"
    early = next(turn for turn in transport.turns if turn[0] == name)
    assert again.turn(early[1]) == early[2]
    transport.nodes[name] = again
    desk.server.begin(1), desk.turn("edit", 1)
    assert {*again.client.texts.values()} == {*part.slots[0], *part.slots[1]}


def group_config(node):
    return node.settings.group, node.settings.config


def test_the_server_goes_on_from_its_file_and_stores_nothing_twice(tmp_path):
    """It is stopped after packets were stored and before the nodes heard of it."""
    nodes, transport, desk = federation(tmp_path / "turns")
    desk.turn("join", 0)
    desk.server.begin(0), desk.turn("edit", 0), desk.turn("retrieve", 0)
    desk.server.begin(1), desk.turn("edit", 1)
    stored = desk.server.store.counts()
    desk.server.store.close()
    new = desk_of(tmp_path / "turns" / "store.db", nodes[PARTS[0].name].settings.group, transport)
    assert new.present == 1 and new.session != desk.session
    new.run(3)
    assert [row for row in new.server.store.counts() if row[1] < 2] == stored
    assert {name: ids(node) for name, node in nodes.items()} == in_one_process(tmp_path / "one.db")


class Garbled(Loopback):
    """The last member sends something else than its node made, which then cannot make sense of the answers."""

    bad = PARTS[2].name

    def send(self, turns):
        for name, data in turns.items():
            try:
                super().send({name: data})
            except ValueError as error:
                if name != self.bad:
                    raise
                self.ready.append((name, f"failed: {error}"))

    def replies(self):
        found = super().replies()
        return {n: self.garble(r) if n == self.bad and isinstance(r, bytes) else r for n, r in found.items()}


@pytest.mark.parametrize(
    ("garble", "message"),
    [
        (lambda reply: b"\xff" * 5000, "are not the reply"),
        (lambda reply: reply[: len(reply) // 2], "are not the reply"),
        (lambda reply: "ClientApp raised an exception", "ClientApp raised"),
        (lambda reply: forged(reply, "put", b"\0" * 10_000_000), "refused"),
        (lambda reply: forged(reply, "no such kind", b""), "there is no message"),
        (lambda reply: forged(reply, "since", b"[-1, []]"), "do not name a number"),
    ],
    ids=["noise", "half", "failed", "huge", "kind", "question"],
)
def test_who_sends_garbage_is_refused_once_and_stops_nobody(tmp_path, garble, message):
    nodes, group = nodes_of(tmp_path, PARTS, TOP)
    transport, lines = Garbled(nodes), []
    transport.garble = garble
    desk = desk_of(tmp_path / "store.db", group, transport, progress=lines.append)
    desk.turn("join", 0), desk.server.begin(0), desk.turn("edit", 0), desk.turn("retrieve", 0)
    bad = transport.bad
    assert {client for client, _, _ in desk.server.store.counts()} == {part.name for part in PARTS[:2]}
    refused = [line for line in lines if line.startswith("refused")]
    assert refused and all(bad in line for line in refused) and len(refused) == len(set(refused))
    assert any(message in line for line in refused)
    good = nodes[PARTS[0].name]
    assert good.client.own and not good.channel.refusals


def forged(reply, kind, body):
    """The reply with one call, which its node did not make."""
    read = TurnReply.read(reply)
    return TurnReply(read.session, read.number, ((kind, body),), read.first).data


def test_a_member_cannot_publish_under_the_name_of_another(tmp_path):
    nodes, _, desk = federation(tmp_path)
    desk.turn("join", 0), desk.server.begin(0)
    victim, thief = PARTS[0].name, PARTS[1].name
    turn = desk._turn(victim, "edit", 0)
    reply = TurnReply.read(nodes[victim].turn(turn.data))
    desk._turn(thief, "edit", 0)
    desk._handled(thief, TurnReply(desk.session, desk._seats[thief].sent, reply.calls).data)
    assert len(desk.server.store) == 0
    assert all(f"not of {thief!r}" in answer.refused for answer in desk._seats[thief].answers) and reply.calls


def test_a_node_refuses_a_turn_of_an_earlier_session_and_what_is_no_turn(tmp_path):
    nodes, transport, desk = federation(tmp_path)
    node = next(iter(nodes.values()))
    desk.turn("join", 0)
    session, desk.session, desk._seats = desk.session, "another", {}
    desk.turn("join", 0)
    with pytest.raises(Refused, match="are not a turn"):
        node.turn(b"noise")
    before, first = ids(node), Turn.read(transport.turns[0][1]).first
    with pytest.raises(Refused, match="earlier than the last"):
        node.turn(Turn(session, 2, "edit", 0, 1, (), first).data)
    assert ids(node) == before
    with pytest.raises(ValueError, match="answers came to"):
        node.turn(Turn("another", 2, "edit", 0, 1, (Answer(b""),) * 9, first).data)
    assert desk.turn("edit", 0) == tuple(sorted(nodes)), "the node is as it was before what did not fit"


def test_a_folder_belongs_to_one_node(tmp_path):
    nodes, _, desk = federation(tmp_path)
    desk.turn("join", 0)
    one, other = nodes[PARTS[0].name], nodes[PARTS[1].name]
    other.folder.joinpath("000000.turn").write_bytes(next(one.folder.glob("*.turn")).read_bytes())
    with pytest.raises(ValueError, match="turn of another node"):
        node_of(tmp_path, PARTS[1], other.settings.identity, *group_config(other))
    with pytest.raises(ValueError, match="the group has no"):
        node_of(tmp_path, PARTS[1], one.settings.identity.__class__.draw("x", one.channel.draws), *group_config(other))
