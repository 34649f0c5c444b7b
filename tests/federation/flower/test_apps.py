"""Turns over Flower's grid, where its calls fail: nobody else is late, and the server goes on."""

import time

import pytest

pytest.importorskip("flwr")

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from fleke_lib.federation.flower.apps import KIND, GridTransport, unpacked
from fleke_lib.federation.flower.desk import Unreached

pytestmark = pytest.mark.flower
KEYS = {"bern": "key of bern", "genf": "key of genf", "chur": "key of chur"}


@pytest.fixture(autouse=True)
def task(monkeypatch):
    """The task in whose process Flower believes to be."""
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


class Node:
    def __init__(self, id, key):
        self.node_id, self.public_key = id, key.encode()


class Grid:
    """Flower's grid with nodes that answer at once; each call of `push_messages` fails whose number is in `failing`."""

    def __init__(self, failing=(), unreachable=()):
        self.failing, self.unreachable, self.calls, self.sent = set(failing), set(unreachable), 0, {}

    def get_nodes(self):
        return [Node(i, key) for i, key in enumerate(KEYS.values(), 1)]

    def push_messages(self, messages):
        self.calls += 1
        nodes = {message.metadata.dst_node_id for message in messages}
        if self.calls in self.failing or nodes & self.unreachable:
            raise RuntimeError("the push session may have expired")
        ids = [f"{self.calls}.{i}" for i in range(len(messages))]
        self.sent |= dict(zip(ids, messages, strict=True))
        return ids

    def pull_messages(self, ids):
        return [self.sent.pop(id) for id in ids if id in self.sent]


def answered(grid, members=KEYS, patience=10.0):
    """What has come from these members after one turn: here each reply is the turn itself."""
    transport, found = GridTransport(grid, KEYS), {}
    assert transport.alive() == sorted(KEYS)
    transport.send({name: name.encode() for name in members})
    end = time.monotonic() + patience
    while len(found) < len(members) and time.monotonic() < end:
        found |= transport.replies()
        time.sleep(0.05)
    return found


def test_all_turns_go_out_in_one_call():
    grid = Grid()
    assert answered(grid) == {name: name.encode() for name in KEYS}
    assert grid.calls == 1


def test_if_the_call_fails_each_member_gets_its_turn_by_itself():
    grid = Grid(failing=[1])
    assert answered(grid) == {name: name.encode() for name in KEYS}
    assert grid.calls == 4


def test_who_cannot_be_sent_its_turn_is_late_and_nobody_else():
    found = answered(Grid(unreachable=[2]))
    assert isinstance(found["genf"], Unreached)
    assert found["genf"] == "its turn could not be sent (the push session may have expired)"
    assert {name: found[name] for name in ("bern", "chur")} == {"bern": b"bern", "chur": b"chur"}


def test_a_node_that_is_not_there_is_told_from_one_that_failed():
    turn = Message(RecordDict(), 1, KIND)
    turn.metadata.__dict__["_message_id"] = "1"
    said = {code: unpacked(Message(Error(code, "why"), reply_to=turn)) for code in (1, 2, 4, 5, 8)}
    assert [code for code, words in said.items() if isinstance(words, Unreached)] == [ErrorCode.NODE_UNAVAILABLE]
    assert all("why" in words for words in said.values())


def test_what_has_come_of_an_earlier_turn_is_not_taken_for_the_next_one():
    """An error that came after the last look at one turn would make the member late in the next."""
    transport = GridTransport(Grid(unreachable=[2]), KEYS)
    transport.alive()
    transport.send({"genf": b"the first"})
    transport._grid.unreachable.clear()
    transport.send({"genf": b"the second"})
    found, end = {}, time.monotonic() + 10.0
    while not found and time.monotonic() < end:
        found |= transport.replies()
        time.sleep(0.05)
    assert found == {"genf": b"the second"}
