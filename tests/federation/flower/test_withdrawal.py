"""A member withdraws over turns: everybody else has the weights of the run that it never joined, bit for bit."""

import pytest
import torch

from fleke_lib.edit.edit import Edit
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.flower.node import leave
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.retrieval.policies import Everyone, Majority, TopK
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.sealing.sealing import Sealing
from fleke_lib.federation.weights import cumulative
from fleke_lib.unlearn.edits.withdrawal import withdraw
from tests.federation.flower.loopback import SECRET, Loopback, desk_of, node_of, nodes_of
from tests.federation.small import LAYERS, facts, scenario

PARTS = partition(facts(), 4, slots=3, overlap=0.4, seed=1)
LEAVER, STAY = PARTS[1].name, [part.name for part in PARTS if part is not PARTS[1]]


def federation(folder, config, **how):
    nodes, group = nodes_of(folder, PARTS, config, stored=True)
    transport = Loopback(nodes)
    return nodes, transport, desk_of(folder / "store.db", group, transport, **how)


def never_joined(config):
    """What those who stay have in one process, when the leaver has withdrawn."""
    lm, provider, moments = scenario()
    run = run_fedit(lm, PARTS, config, provider=provider, secret=SECRET, protection=Sealing())
    reused = [event for event in run.ledger.select("reused") if event.client != LEAVER]
    assert any(run.packets[event.packet].client == LEAVER for event in reused), "there is something to compute again"
    after = withdraw(run, client=LEAVER)
    return {name: cumulative(after, name, moments) for name in STAY}


def check_equal(nodes, wanted):
    for name, edit in wanted.items():
        there = Edit.load(nodes[name].edit_file)
        assert there.layers == edit.layers and all(torch.equal(there.delta(at), edit.delta(at)) for at in LAYERS)
        assert LEAVER not in {packet.client for packet in nodes[name].packets()}


@pytest.mark.parametrize("policy", [TopK(2), Majority(0.2), Everyone()], ids=["top", "majority", "everyone"])
def test_a_withdrawal_gives_the_weights_of_the_run_that_was_never_joined(tmp_path, policy):
    config, lines = ClientConfig(policy), []
    nodes, _, desk = federation(tmp_path, config, progress=lines.append)
    assert desk.run(3) == tuple(sorted(nodes))
    stored = {row for row in desk.server.store.counts() if row[0] != LEAVER}
    leave(nodes[LEAVER].folder)
    assert desk.run(3) == tuple(sorted(nodes))
    check_equal(nodes, never_joined(config))
    assert f"{LEAVER} withdrawn: all slots again" in lines
    left = desk.server.store.counts()
    assert LEAVER not in {client for client, _, _ in left} and not desk.server.store.pending()
    more = sum(number for *_, number in left) - sum(number for *_, number in stored)
    assert 0 < more < len(PARTS[1].facts), "only what was reused is published anew"


def test_a_withdrawal_while_a_slot_is_running(tmp_path):
    """The leaver asks in the middle; the desk goes back to slot 0 when the pass is over."""
    config = ClientConfig(TopK(2))
    nodes, transport, desk = federation(tmp_path, config)
    send = transport.send

    def sends(turns):
        if desk.present == 1:
            leave(nodes[LEAVER].folder)
        send(turns)

    transport.send = sends
    desk.run(3)
    check_equal(nodes, never_joined(config))
    assert not desk.server.store.pending()


def test_a_withdrawal_stays_pending_until_a_late_member_has_heard_of_it(tmp_path):
    config = ClientConfig(TopK(2))
    nodes, transport, desk = federation(tmp_path, config)
    desk.run(3), leave(nodes[LEAVER].folder)
    transport.down = {STAY[2]}
    desk.run(3)
    assert [request.client for request in desk.server.store.pending()] == [LEAVER]
    assert LEAVER in {packet.client for packet in nodes[STAY[2]].packets()}
    desk.server.store.close()
    transport.down = {LEAVER}  # those who stay need no word of who has left
    again = desk_of(tmp_path / "store.db", nodes[LEAVER].settings.group, transport)
    again.run(3)
    check_equal(nodes, never_joined(config))
    assert not again.server.store.pending()


def test_a_node_that_was_killed_after_a_withdrawal_is_the_same_again(tmp_path):
    nodes, _, desk = federation(tmp_path, ClientConfig(TopK(2)))
    desk.run(3), leave(nodes[LEAVER].folder), desk.run(3)
    for part in PARTS:
        node = nodes[part.name]
        again = node_of(tmp_path, part, node.settings.identity, node.settings.group, node.settings.config, stored=True)
        assert {packet.id for packet in again.packets()} == {packet.id for packet in node.packets()}
        assert again.left == (part.name == LEAVER) and again.channel.sent_off == node.channel.sent_off
    assert nodes[LEAVER].left


def test_who_has_left_publishes_nothing_more(tmp_path):
    nodes, transport, desk = federation(tmp_path, ClientConfig(TopK(2)))
    desk.run(2), leave(nodes[LEAVER].folder), desk.run(3), desk.run(3)
    assert LEAVER not in {client for client, _, _ in desk.server.store.counts()}
    sent = [data for name, data, _ in transport.turns if name == LEAVER]
    assert max(map(len, sent[-3:])) < 500, "it is not sent the same packets in every turn"
    with pytest.raises(ValueError, match="not the folder of a node"):
        leave(tmp_path)


def test_packets_that_the_server_withdraws_are_fetched_by_nobody_again(tmp_path):
    """Only the server knows which ones they are, so members fetch all that is left."""
    nodes, _, desk = federation(tmp_path, ClientConfig(Everyone()))
    desk.run(3)
    store = desk.server.store
    (id, client) = store._db.execute("SELECT id, client FROM packets WHERE slot = 0 ORDER BY id").fetchone()
    store.withdraw(packets=[id])
    desk.run(3)
    assert not store.pending() and store.withdrawn([id]) == [id]
    for name, node in nodes.items():
        held = {one.card.id for claims in node.channel._held.values() for one in claims}
        assert (id in held) == (name == client)


def test_nobody_withdraws_for_another_and_a_false_list_is_refused(tmp_path):
    nodes, _, desk = federation(tmp_path, ClientConfig(TopK(2)))
    desk.turn("join", 0), desk.server.begin(0), desk.turn("edit", 0)
    stored = desk.server.store.counts()
    with pytest.raises(Refused, match="came from nobody"):
        desk.server.handle("withdraw", b"")
    assert desk.server.store.counts() == stored
    desk.server.handle("withdraw", b"ignored", LEAVER)
    assert desk.server.store.counts() == [row for row in stored if row[0] != LEAVER]
    node = nodes[STAY[0]]
    for told in (b"7", b"[[1]]", b'[["1", "x"]]', b"[[1, 2]]", b"\xff"):
        with pytest.raises(ValueError, match="not a list of withdrawals"):
            node._leave_out(told)


def test_packets_that_may_be_optimised_from_withdrawn_ones_are_not_kept_silently(tmp_path):
    nodes, _, desk = federation(tmp_path, ClientConfig(TopK(2), warm=True))
    desk.run(1)
    with pytest.raises(ValueError, match="may have been optimised"):
        nodes[STAY[0]]._leave_out(b'[[1, "%s"]]' % LEAVER.encode())
