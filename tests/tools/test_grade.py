"""nbgrader grades a perfect, an empty, a wrong and a copied hand-in; needs nbgrader, and is skipped without it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools.exercises import FOLDER, read_sheet
from tools.grade import MISSING, gradable, main

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


def called(*arguments: str | Path) -> str:
    done = subprocess.run(
        [PYTHON, "-m", "tools.grade", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
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
