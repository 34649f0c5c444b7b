"""Nodes add up sums over turns: the edit of one process bit for bit, whoever drops out; only masked numbers cross."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fleke_lib.edit.edit import Edit
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.fixed_point import FixedPoint
from fleke_lib.federation.flower.bounds import load_rules, load_sum_rules, save_rules
from fleke_lib.federation.flower.node import leave
from fleke_lib.federation.flower.sums import numbers_of, paired, pairs
from fleke_lib.federation.flower.turns import SEALED, SUMMED, Answer, Turn, TurnReply
from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.summed import flat
from fleke_lib.ridge.sums import sums
from fleke_lib.unlearn.edits.withdrawal import withdraw
from tests.federation.flower.loopback import Ghost, Loopback
from tests.federation.flower.loopback import nodes_of as sealed_nodes_of
from tests.federation.flower.summing import (
    NAMES,
    PARTS,
    desk_of,
    edit_of,
    equal,
    in_one_process,
    node_of,
    nodes_of,
    rules_of,
)
from tests.federation.small import LAYERS, scenario

FIRST, SECOND = LAYERS


@dataclass
class Dying(Loopback):
    """`dies` gets no turn any more from the n-th of this kind on, counted from 0. leaves: it withdraws instead."""

    dies: str = ""
    what: str = ""
    n: int = 0
    leaves: bool = False
    seen: int = 0

    def send(self, turns):
        for name, data in turns.items():
            if name == self.dies and Turn.read(data).what == self.what:
                if self.seen == self.n and self.leaves:
                    leave(self.nodes[name].folder)
                elif self.seen == self.n:
                    self.down = {name}
                self.seen += 1
            if name not in self.down:
                super().send({name: data})


def edits(nodes) -> dict[str, Edit]:
    """The edits that nodes have written, which are then deleted."""
    found = {name: Edit.load(node.edit_file) for name, node in nodes.items() if node.edit_file.exists()}
    for name in found:
        nodes[name].edit_file.unlink()
    return found


def check(nodes, names, wanted):
    found = edits(nodes)
    assert sorted(found) == sorted(names) and all(equal(edit, wanted) for edit in found.values())


def test_every_node_has_the_edit_of_one_process(tmp_path):
    nodes, group = nodes_of(tmp_path)
    run = in_one_process()
    assert desk_of(group, Loopback(nodes)).run(1) == tuple(sorted(NAMES))
    check(nodes, NAMES, edit_of(run, until=0))
    assert desk_of(group, Loopback(nodes)).run(2) == tuple(sorted(NAMES))
    check(nodes, NAMES, edit_of(run))
    left = {path.name for node in nodes.values() for path in node.folder.iterdir()}
    assert left <= {"rules.json"}, "no turn, packet or key is kept"


@pytest.mark.parametrize("layer", LAYERS)
def test_who_is_killed_before_it_sends_its_masked_sums_is_out_as_in_one_process(tmp_path, layer):
    nodes, group = nodes_of(tmp_path)
    lines, gone = [], NAMES[2]
    transport = Dying(nodes, dies=gone, what="masked", n=2 * LAYERS.index(layer) + 1)
    stay = [name for name in NAMES if name != gone]
    assert desk_of(group, transport, progress=lines.append, patience=0.5).run(2) == tuple(sorted(stay))
    run = in_one_process()
    check(nodes, stay, edit_of(run, gone={layer: [gone]}))
    assert any(f"masked: 3 of 4 nodes, sums of layer {layer}" in line for line in lines)
    assert desk_of(group, Loopback(nodes)).run(2) == tuple(sorted(NAMES)), "it takes part again"
    check(nodes, NAMES, edit_of(run))


@pytest.mark.parametrize("what", ["advertise", "share"])
def test_who_is_gone_before_the_first_numbers_has_never_taken_part(tmp_path, what):
    nodes, group = nodes_of(tmp_path)
    desk_of(group, Dying(nodes, dies=NAMES[1], what=what), patience=0.5).run(2)
    stay = tuple(part for part in PARTS if part.name != NAMES[1])
    check(nodes, [part.name for part in stay], edit_of(in_one_process(stay)))


@pytest.mark.parametrize("number", [3, 4])
def test_a_session_begins_with_as_many_members_as_the_desk_waits_for(tmp_path, number):
    nodes, group = nodes_of(tmp_path)
    desk_of(group, Ghost(nodes, ghost=NAMES[1], looks=3), number=number).run(2)
    there = tuple(part for part in PARTS if number == 4 or part.name != NAMES[1])
    check(nodes, [part.name for part in there], edit_of(in_one_process(there)))


def test_who_is_gone_before_it_reveals_is_in_this_total_and_not_in_the_next(tmp_path):
    nodes, group = nodes_of(tmp_path)
    desk_of(group, Dying(nodes, dies=NAMES[0], what="reveal", n=1), patience=0.5).run(2)
    found, whole = edits(nodes), edit_of(in_one_process())
    assert sorted(found) == sorted(NAMES[1:]) and all(equal(edit, found[NAMES[1]]) for edit in found.values())
    assert torch.equal(found[NAMES[1]].delta(FIRST), whole.delta(FIRST))
    assert not torch.equal(found[NAMES[1]].delta(SECOND), whole.delta(SECOND))


@dataclass
class Telling(Loopback):
    """What a node raises is its reply, in words, as with the relay."""

    def send(self, turns):
        for name, data in turns.items():
            try:
                super().send({name: data})
            except ValueError as error:
                self.ready.append((name, str(error)))


def test_a_node_that_was_started_again_is_out_of_the_session_and_in_the_next_one(tmp_path):
    nodes, group = nodes_of(tmp_path)
    lines, old = [], nodes[NAMES[3]]
    desk = desk_of(group, Telling(nodes), progress=lines.append)
    go_on = desk.server.go_on

    def restarting():
        go_on()
        if desk.server.phase == "masked" and nodes[NAMES[3]] is old:
            nodes[NAMES[3]] = node_of(tmp_path, PARTS[3], old.settings.identity, group)

    desk.server.go_on = restarting
    assert desk.run(2) == tuple(sorted(NAMES[:3]))
    wanted = edit_of(in_one_process(PARTS[:3]))
    check(nodes, NAMES[:3], wanted)
    assert any("not at the turn 'masked' of a session: it takes part in the next one" in line for line in lines)
    assert desk.run(2) == tuple(sorted(NAMES))
    check(nodes, NAMES, edit_of(in_one_process()))


def test_too_few_members_get_nothing(tmp_path):
    nodes, group = nodes_of(tmp_path)
    with pytest.raises(ValueError, match=r"2 of 4 members are left at the turn 'advertise', and 3 are needed"):
        desk_of(group, Loopback(nodes, down=set(NAMES[:2]))).run(2)
    three = {name: nodes[name] for name in NAMES[1:]}
    with pytest.raises(ValueError, match="2 of 4 members are left at the turn 'masked'"):
        desk_of(group, Dying(three, dies=NAMES[1], what="masked", n=1), patience=0.5).run(2)
    assert not edits(nodes)


def test_a_withdrawal_gives_the_never_joined_edit_bit_for_bit(tmp_path):
    nodes, group = nodes_of(tmp_path)
    gone, stay, lines = NAMES[1], tuple(part for part in PARTS if part.name != NAMES[1]), []
    desk_of(group, Loopback(nodes)).run(2), edits(nodes)
    leave(nodes[gone].folder)
    assert desk_of(group, Loopback(nodes), progress=lines.append).run(2) == tuple(sorted(NAMES)), "all is done"
    never = edit_of(in_one_process(stay))
    check(nodes, [part.name for part in stay], never)
    assert equal(never, edit_of(withdraw(in_one_process(), client=gone)))
    assert lines.count(f"{gone} withdrawn: the total is without it") == 1
    assert sum("advertise" in line for line in lines) == 1, "one session is enough"


@pytest.mark.parametrize(("what", "n"), [("share", 0), ("masked", 1), ("reveal", 3), ("learn", 0)])
def test_a_withdrawal_in_the_middle_of_a_session_begins_another_one(tmp_path, what, n):
    nodes, group = nodes_of(tmp_path)
    transport = Dying(nodes, dies=NAMES[1], what=what, n=n, leaves=True)
    assert desk_of(group, transport).run(2) == tuple(sorted(NAMES))
    stay = tuple(part for part in PARTS if part.name != NAMES[1])
    check(nodes, [part.name for part in stay], edit_of(in_one_process(stay)))


def test_a_member_without_facts_takes_part_and_changes_nothing(tmp_path):
    nodes, group = nodes_of(tmp_path)
    one = nodes[NAMES[0]].settings
    nodes[NAMES[0]] = node_of(tmp_path / "empty", replace(PARTS[0], slots=()), one.identity, group)
    assert desk_of(group, Loopback(nodes)).run(2) == tuple(sorted(NAMES))
    check(nodes, NAMES, edit_of(in_one_process(PARTS[1:])))


def test_nothing_but_keys_shares_and_masked_numbers_crosses(tmp_path):
    nodes, group = nodes_of(tmp_path)
    transport = Loopback(nodes)
    desk_of(group, transport).run(2)
    point, run = rules_of()[1].scales.layers[FIRST], in_one_process()
    for name in NAMES:
        own = point.encode(flat(sums(run.own(name), FIRST)))
        replies = [TurnReply.read(reply) for who, _, reply in transport.turns if who == name]
        calls = [call for reply in replies for call in reply.calls]
        assert [kind for kind, _ in calls] == ["advertise", "share", *["masked", "reveal"] * 4]
        sent = numbers_of([body for kind, body in calls if kind == "masked"][1], len(own) + 1)
        assert not np.isin(own[own != 0], sent).any(), "no number of its sums is there"
        assert not any(packet.data[-64:] in reply for packet in run.own(name) for _, _, reply in transport.turns)


def advertised(nodes, group):
    """A desk before the turn `share`."""
    desk = desk_of(group, Loopback(nodes))
    desk.server.begin("s"), desk.turn("advertise", 1), desk.server.go_on()
    return desk


def test_keys_that_the_server_has_made_are_refused(tmp_path):
    """With keys of its own in somebody's place it would know this one's masks."""
    nodes, group = nodes_of(tmp_path)
    desk = advertised(nodes, group)
    told = desk.server.handle("told", b"", NAMES[0])
    first, *rest = pairs(told)
    *keys, signature = cut_apart(first[1])
    forged = paired([(first[0], joined([keys[0][::-1], *keys[1:], signature])), *rest])
    stranger = paired([*pairs(told), ("stranger", first[1])])
    for name, given, what in (
        (NAMES[2], forged, "not 4 that it has signed"),
        (NAMES[3], stranger, "no member of this"),
    ):
        with pytest.raises(Refused, match=what):
            nodes[name].turn(Turn(desk.session, 2, "share", 1, first=(Answer(given),)).data)
        with pytest.raises(Refused, match="not at the turn 'share'"):
            nodes[name].turn(Turn(desk.session, 3, "share", 1, first=(Answer(told),)).data)
    assert nodes[NAMES[1]].turn(Turn(desk.session, 2, "share", 1, first=(Answer(told),)).data)


def test_few_members_are_not_added_up_by_themselves(tmp_path):
    """A server that names two of four would learn the total of two."""
    nodes, group = nodes_of(tmp_path)
    desk = advertised(nodes, group)
    few = paired(pairs(desk.server.handle("told", b"", NAMES[0]))[:2])
    name = pairs(few)[0][0]
    with pytest.raises(ValueError, match="the threshold is 3 for 2 holders"):
        nodes[name].turn(Turn(desk.session, 2, "share", 1, first=(Answer(few),)).data)


def test_a_node_answers_a_repeated_turn_with_the_same_bytes_and_no_other_numbers(tmp_path):
    nodes, group = nodes_of(tmp_path)
    transport = Loopback(nodes)
    desk = desk_of(group, transport)
    desk.server.begin("s"), desk.turn("advertise", 1)
    for _ in range(2):
        desk.server.go_on(), desk.turn(desk.server.phase, 1)
    name, data, reply = transport.turns[-1]
    assert Turn.read(data).what == "masked" and nodes[name].turn(data) == reply
    again = replace(Turn.read(data), number=Turn.read(data).number + 1)
    with pytest.raises(Refused, match="not at the turn 'masked'"):
        nodes[name].turn(again.data)


def test_no_server_makes_a_node_seal_or_a_sealed_one_sum(tmp_path):
    nodes, _ = nodes_of(tmp_path / "summed")
    sealed, _ = sealed_nodes_of(tmp_path / "sealed", PARTS, ClientConfig(Everyone()))
    for node, others in ((nodes[NAMES[0]], SEALED), (sealed[NAMES[0]], SUMMED)):
        for what in others:
            with pytest.raises(Refused, match=f"turn '{what}' is of another protection"):
                node.turn(Turn("ab", 1, what, 0, first=(Answer(b""),) * 3).data)


def test_a_server_with_other_rules_or_members_is_refused(tmp_path):
    nodes, group = nodes_of(tmp_path)
    server = replace(desk_of(group, None).server, agreed="other")
    server.begin("s")
    turn = Turn("ab", 1, "advertise", 0, first=(Answer(server.handle("told", b"", NAMES[0])),))
    with pytest.raises(Refused, match="other rules or another list of members"):
        nodes[NAMES[0]].turn(turn.data)
    summed, one = rules_of()[1], nodes[NAMES[0]].settings
    other = replace(summed, scales=replace(summed.scales, products=FixedPoint(1.0, 4)))
    names = {nodes[NAMES[0]]._agreed, node_of(tmp_path / "x", PARTS[0], one.identity, group, other)._agreed}
    names |= {node_of(tmp_path / "x", PARTS[0], one.identity, group.left(NAMES[1]))._agreed}
    names |= {node_of(tmp_path / "x", PARTS[0], one.identity, group, replace(summed, lam=1.5))._agreed}
    assert len(names) == 4


def test_the_server_refuses_what_is_not_expected_now(tmp_path):
    nodes, group = nodes_of(tmp_path)
    desk = advertised(nodes, group)
    server = desk.server
    for kind, body, sender, what in (
        ("masked", b"", NAMES[0], "not expected of it now"),
        ("share", b"", "stranger", "not expected of it now"),
        ("share", b"", NAMES[0], "4 sealed shares to each other member"),
        ("share", b"\1", NAMES[0], "end within a part"),
        ("put", b"", NAMES[0], "no message 'put'"),
        ("withdraw", b"", "", "no message 'withdraw'"),
    ):
        with pytest.raises(ValueError, match=what):
            server.handle(kind, body, sender)
    desk.turn("share", 1)
    with pytest.raises(Refused, match="not expected of it now"):
        server.handle("share", b"", NAMES[0])
    server.go_on()
    with pytest.raises(Refused, match="9 bytes came where 3 numbers"):
        server.handle("masked", bytes(9), NAMES[0])
    assert server.handle("told", b"", "stranger") == b"" and not server.left


def test_the_rules_of_summing_are_read_as_they_were_written(tmp_path):
    rules, summed = rules_of()
    path = save_rules(rules, tmp_path / "rules.json", summed)
    found = load_sum_rules(path)
    assert load_rules(path) == rules and found.lam == summed.lam == scenario()[0].preset.trajectory_lam
    assert found.scales.products == summed.scales.products and dict(found.scales.layers) == summed.scales.layers
    assert load_sum_rules(save_rules(rules, tmp_path / "sealed.json")) is None
    text = path.read_text()
    for old, new in (('"1":', '"7":'), ('"clients": 4', '"clients": 0'), ('"lam"', '"la"')):
        assert old in text
        (tmp_path / "wrong.json").write_text(text.replace(old, new))
        with pytest.raises(ValueError, match="holds no fixed point"):
            load_sum_rules(tmp_path / "wrong.json")
