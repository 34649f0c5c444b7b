"""A member is withdrawn while a slot is running: by the command, in a process of its own, on the open registry.

Desk and nodes are in this process and exchange real bytes.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.flower.turns import Turn, TurnReply
from fleke_lib.federation.retrieval.policies import Everyone
from tests.federation.flower.loopback import Loopback, desk_of, nodes_of
from tests.federation.flower.test_desk import APART, ids, in_one_process

ALL = ClientConfig(Everyone())
ROOT = Path(__file__).parents[3]
GONE = APART[2].name


def withdraw(path):
    """The command, as the server's operator calls it."""
    call = [sys.executable, "-m", "fleke_lib.federation", "withdraw", "--registry", str(path), "--client", GONE]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(call, capture_output=True, text=True, check=True, env=environment).stdout


@dataclass
class Meanwhile(Loopback):
    """The server's operator withdraws a member when the turn `retrieve` of slot 1 is sent."""

    store: Path = Path()
    said: str = ""

    def send(self, turns):
        about = [Turn.read(data) for data in turns.values()]
        if not self.said and (about[0].what, about[0].slot) == ("retrieve", 1):
            self.said = withdraw(self.store)
        super().send(turns)


@pytest.mark.slow
def test_a_member_withdrawn_between_the_turns_of_a_slot_is_as_if_it_had_never_joined(tmp_path):
    nodes, group = nodes_of(tmp_path, APART, ALL)
    transport, lines = Meanwhile(nodes, store=tmp_path / "store.db"), []
    desk = desk_of(transport.store, group, transport, progress=lines.append)
    desk.run(3)
    published = sum(len(facts) for facts in APART[2].slots[:2])
    assert f"{published} packets erased" in transport.said
    assert f"{GONE} withdrawn: all slots again" in lines
    expected = in_one_process(tmp_path / "one.db", APART[:2], config=ALL)
    assert {name: ids(node) for name, node in nodes.items() if name != GONE} == expected
    store = desk.server.store
    assert not [row for row in store.counts() if row[0] == GONE] and store.verify() == [] and store.pending() == []
    mine = [(Turn.read(turn), TurnReply.read(reply)) for name, turn, reply in transport.turns if name == GONE]
    old = next(reply for turn, reply in mine if (turn.what, turn.slot) == ("edit", 0))
    desk.server.begin(0)
    answers = [desk._answer(GONE, call) for call in old.calls if call[0] == "put"]
    assert len(answers) == len(APART[2].slots[0]) and all("was withdrawn" in answer.refused for answer in answers)
    assert len([line for line in lines if "was withdrawn" in line]) == len(answers), "each packet's reason once"
