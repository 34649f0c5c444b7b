"""A member is withdrawn while a slot is running: by the command, in a process of its own, on the open registry.

Desk and nodes are in this process and exchange real bytes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.flower.turns import TurnReply
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


@pytest.mark.slow
def test_a_member_withdrawn_between_the_turns_of_a_slot_is_adopted_by_nobody(tmp_path):
    nodes, group = nodes_of(tmp_path, APART, ALL)
    transport, lines = Loopback(nodes), []
    desk = desk_of(tmp_path / "store.db", group, transport, progress=lines.append)
    desk.turn("join", 0), desk.server.begin(0), desk.turn("edit", 0)
    published = len(APART[2].slots[0])
    assert f"{published} packets erased" in withdraw(tmp_path / "store.db")
    transport.down = {GONE}  # its owner stops its node, too
    desk.turn("retrieve", 0)
    for slot in (1, 2):
        desk.server.begin(slot), desk.turn("edit", slot), desk.turn("retrieve", slot)
    expected = in_one_process(tmp_path / "one.db", APART[:2], config=ALL)
    assert {name: ids(node) for name, node in nodes.items() if name != GONE} == expected, "as if it had never joined"
    assert not [row for row in desk.server.store.counts() if row[0] == GONE] and desk.server.store.verify() == []
    _, _, reply = next(turn for turn in transport.turns if turn[0] == GONE and TurnReply.read(turn[2]).number == 2)
    desk.server.begin(0)
    answers = [desk._answer(GONE, call) for call in TurnReply.read(reply).calls if call[0] == "put"]
    assert len(answers) == published and all("was withdrawn" in answer.refused for answer in answers)
    assert len([line for line in lines if "was withdrawn" in line]) == published, "each packet's reason once"
