"""Hospitals and the server are killed while a federation runs on Flower; the result is that of a run in one process.

Four hospitals, three slots, a fact a hospital and slot. In slot 1 three of them are killed: one while it computes, one
while it uploads, and one between the slots. They come back in slot 2. Then the server is killed after all uploads of
slot 2 were acknowledged, and is started again on its file. Killed means SIGKILL for a process and all its children.
"""

import shutil
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from fleke_lib.edit.disturbance import within_budget
from fleke_lib.edit.edit import Edit
from fleke_lib.edit.moments import second_moments
from fleke_lib.federation.packets.packet import Packet
from tests.federation.faults.hospitals import Holds, hospitals, in_one_process, tiny_model, until
from tools.federation.comparison import one_thread

pytestmark = [pytest.mark.flower, pytest.mark.slow]
COMPUTING, UPLOADING, BETWEEN = "hospital-1", "hospital-2", "hospital-3"
LATE = (COMPUTING, UPLOADING, BETWEEN)
SLOTS, PATIENCE = 3, 45.0


@dataclass
class Outcome:
    """What is left of the run: the desk's lines before and after the restart, and what was stored at the kill."""

    folder: Path
    expected: dict[str, tuple[Packet, ...]]
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    kept: list[tuple] = field(default_factory=list)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The whole story, once."""
    folder = tmp_path_factory.mktemp("killed")
    site = hospitals(folder, 4, SLOTS)
    holds = Holds(folder)
    lm = tiny_model(folder / "tiny")
    expected = in_one_process(folder, lm, site.parts, LATE, missed=1)
    try:
        holds.at("desk-edit-1"), holds.patience(600)
        site.start()
        site.start_server(SLOTS, 600.0)
        holds.wait("desk-edit-1")

        site.processes.kill(BETWEEN)
        holds.at(f"{COMPUTING}-computing", f"{UPLOADING}-uploading", "desk-edit-2")
        holds.patience(PATIENCE)
        holds.free("desk-edit-1")
        holds.wait(f"{COMPUTING}-computing", f"{UPLOADING}-uploading")
        for name in (COMPUTING, UPLOADING):
            site.processes.kill(name)
            shutil.copytree(folder / f"{name}.memory", folder / f"{name}.at-the-kill")
        holds.free(f"{COMPUTING}-computing", f"{UPLOADING}-uploading")

        holds.wait("desk-edit-2")
        for name in LATE:
            site.start_node(name)
        for name in LATE:
            until(lambda name=name: "SuperNode ID" in (folder / f"{name}.log").read_text(), 600, f"{name} is back")
        holds.at("desk-retrieve-2"), holds.patience(600)
        holds.free("desk-edit-2")
        holds.wait("desk-retrieve-2")

        before = [text for kind, text in site.progress.read() if kind == "line"]
        site.processes.kill("server")
        kept = rows(folder / "hub" / "registry.db")
        holds.free("desk-retrieve-2")
        after = [*site.run(SLOTS, 600.0, 1200.0, say=lambda *_: None)]
        yield Outcome(folder, expected, before, after, kept)
    finally:
        site.processes.stop()


def rows(path):
    with sqlite3.connect(path) as db:
        found = db.execute("SELECT client, slot, id FROM packets ORDER BY client, slot, id").fetchall()
    db.close()
    return found


def test_the_slot_goes_on_with_the_others_after_the_stated_patience(outcome):
    assert any(line.startswith("slot 0, retrieve: 4 of 4 nodes, 4 packets") for line in outcome.before)
    assert any(line.startswith("slot 1, edit: 1 of 4 nodes, 5 packets") for line in outcome.before)
    assert any(line.startswith("slot 1, retrieve: 1 of 4 nodes") for line in outcome.before)


def test_each_was_killed_at_the_place_that_it_should_be(outcome):
    """One had vectors and no reply, and the other had kept its reply, which the server has not got."""
    turns = {name: len([*(outcome.folder / f"{name}.at-the-kill").glob("*.turn")]) for name in (COMPUTING, UPLOADING)}
    assert turns == {COMPUTING: 3, UPLOADING: 4}, "join, edit 0, retrieve 0, and edit 1 of the one that uploads"


@pytest.mark.parametrize("name", LATE)
def test_who_was_killed_catches_up(outcome, name):
    assert any(line.startswith("slot 2, edit: 4 of 4 nodes, 12 packets") for line in outcome.before)
    assert [slot for client, slot, _ in outcome.kept if client == name] == [0, 2, 2]


def test_a_killed_server_goes_on_from_its_file_with_nothing_lost_and_nothing_twice(outcome):
    assert any(line.startswith("slot 2, edit: 4 of 4 nodes, 12 packets") for line in outcome.after)
    assert any(line.startswith("slot 2, solve: 4 of 4 nodes, 12 packets") for line in outcome.after)
    assert not any(line.startswith("slot 0") for line in outcome.after), "it begins with the last slot"
    assert rows(outcome.folder / "hub" / "registry.db") == outcome.kept and len(outcome.kept) == 12


@pytest.mark.parametrize("name", ["hospital-0", *LATE])
def test_the_weights_are_those_of_the_run_in_which_the_same_were_late(outcome, name):
    lm = tiny_model(outcome.folder / "tiny")
    with one_thread():
        here = within_budget(lm, outcome.expected[name], second_moments(lm))
    there = Edit.load(outcome.folder / f"{name}.memory" / "edit.safetensors")
    assert here.layers == there.layers
    assert all(torch.equal(here.delta(layer), there.delta(layer)) for layer in here.layers)
