"""Graded exercises with nbgrader: ``python -m tools.grade HAND_IN ...``, or ``make grade GRADE_ARGS="HAND_IN ..."``.

    python -m tools.grade --release handout 02 05     what students get: notebooks of these chapters, and their checks
    python -m tools.grade hand-ins/*                  a folder a student, with the notebooks that came back

Both are made from the exercises' one source. A student's notebook has neither solutions nor hidden checks. Each
exercise gives one point for its check and one for a hidden check: the same check on other numbers, which ``--seed``
draws, and what its ``[hidden]`` cell adds. Every check is put back as it was before a hand-in runs, also one that was
deleted. A file that cannot be graded is named in the table with the reason, and all others are graded. nbgrader needs
no server. Hand-ins are programs and run with your rights: grade those of strangers in a container.
"""

import argparse
import importlib.util
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.declared import number_of
from tools.exercises import FOLDER, METADATA, Sheet, folded, read_sheet, task

ROOT = Path(__file__).parents[1]
MISSING = "nbgrader is not installed here: `make grade` installs it in .venv-nbgrader and calls this with it."
HIDDEN = "### BEGIN HIDDEN TESTS\n{}### END HIDDEN TESTS"
SECONDS = 600  # that a cell of a hand-in may run
ERROR = re.compile(r"^ *(?:\w+\.)*(\w+(?:Error|Exception)): ?(.*)$", re.MULTILINE)  # the last line of a traceback


@dataclass(frozen=True)
class Grade:
    """The points of one exercise in a hand-in. said: what the first check that failed says, or "" if none did."""

    student: str
    chapter: str
    exercise: int
    points: float
    most: float
    said: str


@dataclass(frozen=True)
class Ungraded:
    """A file that could not be graded, and why, in one sentence."""

    student: str
    file: str
    why: str


def gradable(sheet: Sheet, seed: int) -> NotebookNode:
    """A sheet as nbgrader's source: its solutions, hidden checks drawn with a seed, and which cells give points."""
    cells = [
        _marked(new_code_cell(cell.text) if not cell.kind else new_markdown_cell(cell.text), f"opening-{i}")
        for i, cell in enumerate(sheet.opening)
    ]
    for number, exercise in enumerate(sheet.exercises, start=1):
        cells += [
            _marked(new_markdown_cell(task(number, exercise)), f"task-{number}"),
            _marked(new_code_cell(exercise.code), f"answer-{number}", solution=True),
            _marked(new_code_cell(exercise.check), f"check-{number}", points=1),
            _marked(new_code_cell(HIDDEN.format(exercise.hidden_check(seed))), f"hidden-{number}", points=1),
            _marked(new_markdown_cell(folded("Hint", exercise.hint)), f"hint-{number}"),
        ]
    for number, cell in enumerate(cells):
        cell.id = f"c{number:02}"
    return new_notebook(cells=cells, metadata=METADATA)


def release(chapters: Iterable[str], seed: int, to: Path) -> list[Path]:
    """Write what students get into a folder: the chapters' notebooks and the checks. Returns the notebooks' paths."""
    with TemporaryDirectory() as work:
        course = Course(Path(work), seed)
        to.mkdir(parents=True, exist_ok=True)
        _copy_checks(to)
        return [Path(shutil.copy(course.released(chapter), to)) for chapter in chapters]


def grade(hand_ins: Sequence[Path], seed: int, seconds: int = SECONDS) -> tuple[list[Grade], list[Ungraded]]:
    """Grade every notebook in every folder; returns the grades, and the files that could not be graded.

    seconds: that a cell may run before it is stopped.

    Raises ValueError if nbgrader is not installed.
    """
    with TemporaryDirectory() as work:
        course, found, left = Course(Path(work), seed, seconds), [], []
        for folder in hand_ins:
            student = folder.resolve().name
            notebooks = sorted(folder.glob("*.ipynb")) if folder.is_dir() else []
            if not notebooks:
                left.append(Ungraded(student, "", "it is no folder with notebooks: give a folder for each student."))
            for notebook in notebooks:
                try:
                    found += course.graded(student, notebook)
                except Exception as error:  # of any kind: the others are graded all the same
                    left.append(Ungraded(student, notebook.name, " ".join(str(error).split())))
        return found, left


class Course:
    """nbgrader's folders and database for the hand-ins of one call."""

    def __init__(self, root: Path, seed: int, seconds: int = SECONDS) -> None:
        if importlib.util.find_spec("nbgrader") is None:
            raise ValueError(MISSING)
        from nbgrader.apps import NbGraderAPI
        from traitlets.config import Config

        self.root, self.seed, self.seconds = root, seed, seconds
        self.config = Config(
            {
                "CourseDirectory": {"root": str(root)},
                "ClearSolutions": {"code_stub": {"python": "raise NotImplementedError"}},
                "ExecutePreprocessor": {"timeout": seconds},
                "Execute": {"timeout": seconds},
            }
        )
        logging.getLogger("traitlets").setLevel(logging.ERROR)
        # Kernels import the library from this checkout; nbgrader calls alembic by its name.
        for variable, first in (("PYTHONPATH", ROOT), ("PATH", Path(sys.executable).parent)):
            os.environ[variable] = os.pathsep.join(filter(None, (str(first), os.environ.get(variable))))
        self.api = NbGraderAPI(config=self.config)

    def released(self, chapter: str) -> Path:
        """The students' notebook of a chapter, which `nbgrader generate_assignment` makes."""
        source = self.root / "source" / chapter
        if not source.exists():
            _copy_checks(source)
            sheet = read_sheet((FOLDER / "source" / f"{chapter}.py").read_text(encoding="utf-8"))
            nbformat.write(gradable(sheet, self.seed), source / f"{chapter}.ipynb")
            _done(self.api.generate_assignment(chapter), f"{chapter} could not be released")
        return self.root / "release" / chapter / f"{chapter}.ipynb"

    def graded(self, student: str, notebook: Path) -> list[Grade]:
        """The grades of one notebook, one for each exercise.

        Raises ValueError if it is not a notebook that was handed out, or cannot be run to its end.
        """
        chapter = notebook.stem
        if not (FOLDER / "source" / f"{chapter}.py").exists():
            raise ValueError("it is not named as an exercise's notebook: give it the name that was handed out.")
        given = whole(_read(notebook), nbformat.read(self.released(chapter), as_version=4))
        place = self.root / "submitted" / student / chapter
        if place.exists():
            raise ValueError(f"{student!r} has handed this in already: give the folders different names.")
        place.mkdir(parents=True)
        nbformat.write(given, place / notebook.name)
        result = self.api.autograde(chapter, student)
        if not result["success"]:
            raise ValueError(self._reason(f"{result.get('log') or ''}\n{result.get('error') or ''}"))
        executed = nbformat.read(self.root / "autograded" / student / chapter / notebook.name, as_version=4)
        said = {_name(cell): _said(cell) for cell in executed.cells}
        with self.api.gradebook as book:
            points = {g.cell.name: g.score for g in book.find_submission_notebook(chapter, chapter, student).grades}
        return [
            Grade(
                student,
                chapter,
                number,
                points[f"check-{number}"] + points[f"hidden-{number}"],
                2,
                said.get(f"check-{number}") or said.get(f"hidden-{number}") or "",
            )
            for number in range(1, 1 + sum(name.startswith("check-") for name in points))
        ]

    def _reason(self, log: str) -> str:
        """Why a notebook was not run to its end, from what nbgrader has printed."""
        errors = [(name, text) for name, text in ERROR.findall(log) if name != "NbGraderException"]
        name, text = errors[-1] if errors else ("nbgrader", "no reason was given")
        if name == "CellTimeoutError":
            return f"a cell ran for more than {self.seconds} s and could not be interrupted."
        if name == "DeadKernelError":
            return "its kernel has ended: a cell ends the process, or takes more memory than there is."
        return f"it could not be run ({name}: {text})."


def whole(handed_in: NotebookNode, released: NotebookNode) -> NotebookNode:
    """A hand-in with every cell that was handed out and is no longer there, behind the one that it stood behind.

    Raises ValueError if it has none of them.
    """
    place = {_name(cell): i for i, cell in enumerate(handed_in.cells) if _name(cell)}
    if not place.keys() & {_name(cell) for cell in released.cells}:
        raise ValueError("it has none of the cells that were handed out: hand in the notebook from the hand-out.")
    after, position = {i: [] for i in range(-1, len(handed_in.cells))}, -1
    for cell in released.cells:
        position = place.get(_name(cell), position)
        if _name(cell) not in place:
            after[position].append(cell)
    handed_in.cells = [*after[-1], *(one for i, cell in enumerate(handed_in.cells) for one in (cell, *after[i]))]
    return handed_in


def table(grades: Sequence[Grade], left: Sequence[Ungraded] = ()) -> str:
    """One line an exercise, with the check's sentence, one line a hand-in with its points, one a file not graded."""
    lines = []
    for one in grades:
        name = f"{number_of(Path(one.chapter))}.{one.exercise}"
        lines.append(f"{one.student:<20}{name}  {one.points:g} of {one.most:g}  {one.said}".rstrip())
    for student, chapter in dict.fromkeys((one.student, one.chapter) for one in grades):
        own = [one for one in grades if (one.student, one.chapter) == (student, chapter)]
        lines.append(f"{student:<20}{chapter:<26}{sum(g.points for g in own):g} of {sum(g.most for g in own):g}")
    lines += [f"{one.student:<20}{one.file.removesuffix('.ipynb'):<26}not graded: {one.why}" for one in left]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 when everything was graded or released, 1 if a file was not, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m tools.grade", description=__doc__)
    parser.add_argument("given", nargs="*", help="folders of hand-ins; with --release, the numbers of chapters")
    parser.add_argument("--release", type=Path, metavar="FOLDER", help="write what students get into this folder")
    parser.add_argument("--seed", type=int, default=1, help="of the hidden checks' numbers (default: 1)")
    parser.add_argument(
        "--seconds", type=int, default=SECONDS, help=f"that a cell may run before it is stopped (default: {SECONDS})"
    )
    options = parser.parse_args(arguments)
    try:
        if options.release:
            for path in release(map(_chapter, options.given or _numbers()), options.seed, options.release.expanduser()):
                print(path)
        elif not options.given:
            raise ValueError("nothing is given to grade: give a folder for each student, or --release FOLDER.")
        else:
            folders = [Path(given).expanduser() for given in options.given]
            grades, left = grade(folders, options.seed, options.seconds)
            print(table(grades, left))
            return 1 if left else 0
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _copy_checks(to: Path) -> None:
    shutil.copytree(FOLDER / "checks", to / "checks", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def _marked(cell: NotebookNode, name: str, points: int = 0, *, solution: bool = False) -> NotebookNode:
    """The cell with nbgrader's metadata; whatever is no solution is put back as it was before a hand-in runs."""
    about = {"schema_version": 3, "grade_id": name, "solution": solution, "locked": not solution, "task": False}
    cell.metadata["nbgrader"] = about | {"grade": points > 0} | ({"points": points} if points else {})
    return cell


def _numbers() -> list[str]:
    return [number_of(path) for path in sorted((FOLDER / "source").glob("[0-9]*.py"))]


def _chapter(number: str) -> str:
    """The name of the exercises of a chapter. Raises ValueError if there are none."""
    found = sorted((FOLDER / "source").glob(f"{number}_*.py"))
    if len(found) != 1 or not number:
        raise ValueError(f"{number!r} is not a chapter with exercises: give one of {', '.join(_numbers())}.")
    return found[0].stem


def _read(path: Path) -> NotebookNode:
    """A notebook. Raises ValueError if the file is none."""
    try:
        found = nbformat.read(path, as_version=4)
        nbformat.validate(found)
    except OSError as error:
        raise ValueError(f"it cannot be read ({error}).") from None
    except Exception:  # JSON's, Unicode's, nbformat's and whatever it meets in a structure of another kind
        raise ValueError("it is not a notebook, or only a part of one: ask for the file again.") from None
    return found


def _name(cell: NotebookNode) -> str:
    """nbgrader's name of a cell; empty for one that was not handed out."""
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def _said(cell: NotebookNode) -> str:
    """The sentence of a check that failed, or the error that stopped it."""
    errors = [output for output in cell.get("outputs", ()) if output.output_type == "error"]
    if not errors:
        return ""
    value = errors[0].evalue.strip().splitlines()
    return value[0] if errors[0].ename == "NotYet" and value else f"{errors[0].ename}: {(value or [''])[0]}"


def _done(result: dict, otherwise: str) -> None:
    """Raises ValueError with what nbgrader says if it did not succeed."""
    if not result["success"]:
        raise ValueError(f"{otherwise}:\n{result.get('log') or ''}{result.get('error') or ''}")


if __name__ == "__main__":
    sys.exit(main())
