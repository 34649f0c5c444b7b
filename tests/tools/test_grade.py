"""nbgrader grades hand-ins, and names those that cannot be graded; needs nbgrader, and is skipped without it."""

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools.exercises import FOLDER, read_sheet
from tools.grade import MISSING, Ungraded, gradable, main, table, whole

ROOT = Path(__file__).parents[2]
BESIDE = ROOT / ".venv-nbgrader" / "bin" / "python"  # where `make grade` puts nbgrader
PYTHON = sys.executable if importlib.util.find_spec("nbgrader") else os.environ.get("FLEKE_NBGRADER", str(BESIDE))
CHAPTER = "06b_withdrawal"  # needs no language model
SHEET = read_sheet((FOLDER / "source" / f"{CHAPTER}.py").read_text(encoding="utf-8"))
needs_nbgrader = pytest.mark.skipif(
    not Path(PYTHON).exists(), reason="nbgrader is not installed: `make grade` installs it in .venv-nbgrader."
)

# Returns what the visible check wants, whatever it is given.
COPIED = """\
from checks.withdrawal import _Problem

KNOWN = _Problem().never


def withdrawn(*given):
    return KNOWN"""


STUBBORN = """\
import time

while True:
    try:
        time.sleep(1)
    except BaseException:
        pass"""


def called(*arguments: str | Path, status: int = 0) -> str:
    done = subprocess.run(
        [PYTHON, "-m", "tools.grade", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def handout(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a handout")
    called("--release", folder, CHAPTER.partition("_")[0])
    return folder


def test_hidden_checks_and_solutions_are_in_what_is_graded():
    made = gradable(SHEET, seed=7)
    nbformat.validate(made)
    marks = [cell.metadata.nbgrader for cell in made.cells]
    assert len({mark.grade_id for mark in marks}) == len(marks)
    assert sum(mark.get("points", 0) for mark in marks) == 2 * len(SHEET.exercises)
    assert [mark.grade_id for mark in marks if mark.solution] == ["answer-1", "answer-2", "answer-3"]
    assert "with other_numbers(7):\n    check_withdrawn(withdrawn)" in "\n".join(cell.source for cell in made.cells)


@pytest.mark.skipif(importlib.util.find_spec("nbgrader") is not None, reason="nbgrader is installed here")
def test_without_nbgrader_one_sentence_says_how_to_get_it(tmp_path, capsys):
    assert main(["--release", str(tmp_path), "06b"]) == 2
    assert capsys.readouterr().err.strip() == MISSING


def test_a_call_without_hand_ins_is_a_wrong_call(capsys):
    assert main([]) == 2
    assert "give a folder for each student" in capsys.readouterr().err


def test_a_cell_that_was_deleted_comes_back_in_its_place():
    released = gradable(SHEET, seed=1)
    names = [cell.metadata.nbgrader.grade_id for cell in released.cells]
    handed_in = copy.deepcopy(released)
    own = nbformat.v4.new_code_cell("a helper of the student's own")
    handed_in.cells = [
        cell for i, cell in enumerate(handed_in.cells) if names[i] not in (names[0], "check-1", "hidden-1")
    ]
    handed_in.cells.insert(2, own)
    made = whole(handed_in, released)
    assert [cell.metadata.nbgrader.grade_id for cell in made.cells if cell is not own] == names
    assert made.cells.index(own) == 3
    handed_in.cells = [own]
    with pytest.raises(ValueError, match="none of the cells that were handed out"):
        whole(handed_in, released)


def test_a_file_that_is_not_graded_is_a_line_of_the_table():
    lines = table([], [Ungraded("eve", f"{CHAPTER}.ipynb", "it is not a notebook.")]).splitlines()
    assert [line.split() for line in lines] == [["eve", CHAPTER, "not", "graded:", "it", "is", "not", "a", "notebook."]]


@needs_nbgrader
@pytest.mark.slow
def test_students_get_stubs_and_checks_and_nothing_hidden(handout):
    assert (handout / "checks" / "withdrawal.py").exists()
    notebook = nbformat.read(handout / f"{CHAPTER}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "HIDDEN" not in text and "other_numbers" not in text and "SOLUTION" not in text
    for exercise in SHEET.exercises:
        solved, shown = ({line.strip() for line in code.splitlines()} for code in (exercise.solution, exercise.stub))
        assert not [line for line in solved - shown if len(line) > 12 and line in text]
        assert exercise.stub in text and exercise.check in text


@needs_nbgrader
@pytest.mark.slow
def test_a_perfect_an_empty_a_wrong_and_a_copied_hand_in(handout, tmp_path):
    answers = [exercise.solution for exercise in SHEET.exercises]
    wrong = [answers[0].replace("S = S - keys.T @ keys", "S = S"), answers[1], "def erased(:"]
    hand_ins = {"perfect": answers, "empty": [], "wrong": wrong, "copied": [COPIED, *answers[1:]]}
    for student, own in hand_ins.items():
        hand_in(handout, tmp_path / student, own)
    printed = called(*(tmp_path / student for student in hand_ins))
    total = dict(re.findall(r"^(\w+) +06b_withdrawal +(\d of 6)$", printed, re.MULTILINE))
    assert total == {"perfect": "6 of 6", "empty": "0 of 6", "wrong": "2 of 6", "copied": "5 of 6"}
    assert re.search(r"wrong +06b\.1 +0 of 2 +T no longer has the client's facts, but S still has its keys", printed)
    assert re.search(r"empty +06b\.1 +0 of 2 +withdrawn is not written yet", printed)
    assert re.search(r"wrong +06b\.3 +0 of 2 +NameError", printed)
    assert re.search(r"copied +06b\.1 +1 of 2 ", printed)


@needs_nbgrader
@pytest.mark.slow
def test_what_cannot_be_graded_is_named_and_all_others_are_graded(handout, tmp_path):
    answers = [exercise.solution for exercise in SHEET.exercises]
    name = f"{CHAPTER}.ipynb"
    for student in ("truncated", "other", "binary", "misnamed", "own", "deleted"):
        hand_in(handout, tmp_path / student, answers)
    hand_in(handout, tmp_path / "endless", ["import time\nwhile True:\n    time.sleep(1)", *answers[1:]])
    hand_in(handout, tmp_path / "stubborn", [STUBBORN])
    hand_in(handout, tmp_path / "ended", ["import os\nos._exit(1)"])
    whole_file = (tmp_path / "truncated" / name).read_bytes()
    (tmp_path / "truncated" / name).write_bytes(whole_file[: len(whole_file) // 2])
    (tmp_path / "other" / name).write_text(json.dumps({"cells": "none", "nbformat": 4}))
    (tmp_path / "binary" / name).write_bytes(bytes(range(256)) * 40)
    (tmp_path / "misnamed" / name).rename(tmp_path / "misnamed" / "homework.ipynb")
    (tmp_path / "own" / name).write_text((FOLDER / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "stray.txt").write_text("This is no folder.")
    notebook = nbformat.read(tmp_path / "deleted" / name, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.metadata.nbgrader.grade]
    nbformat.write(notebook, tmp_path / "deleted" / name)
    printed = called("--seconds", "40", *sorted(tmp_path.iterdir()), status=1)
    total = dict(re.findall(rf"^(\w+) +{CHAPTER} +(\d of 6)$", printed, re.MULTILINE))
    assert total == {"deleted": "6 of 6", "endless": "4 of 6"}
    reasons = dict(re.findall(r"^(\S+) .*not graded: (.+)$", printed, re.MULTILINE))
    broken = "it is not a notebook, or only a part of one: ask for the file again."
    assert reasons == {
        **dict.fromkeys(("truncated", "other", "binary"), broken),
        "misnamed": "it is not named as an exercise's notebook: give it the name that was handed out.",
        "own": "it has none of the cells that were handed out: hand in the notebook from the hand-out.",
        "stray.txt": "it is no folder with notebooks: give a folder for each student.",
        "stubborn": "a cell ran for more than 40 s and could not be interrupted.",
        "ended": "its kernel has ended: a cell ends the process, or takes more memory than there is.",
    }


def hand_in(handout: Path, folder: Path, answers: list[str]) -> None:
    """The handed-out notebook with these answers; every check is deleted from it, which must not help."""
    notebook = nbformat.read(handout / f"{CHAPTER}.ipynb", as_version=4)
    for number, answer in enumerate(answers, start=1):
        cell = next(cell for cell in notebook.cells if cell.metadata.nbgrader.grade_id == f"answer-{number}")
        cell.source = answer
    for cell in notebook.cells:
        if cell.metadata.nbgrader.grade:
            cell.source = "pass"
    folder.mkdir()
    nbformat.write(notebook, folder / f"{CHAPTER}.ipynb")
