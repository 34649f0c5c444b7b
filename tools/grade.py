"""Graded exercises with nbgrader: ``python -m tools.grade HAND_IN ...``, or ``make grade GRADE_ARGS="HAND_IN ..."``.

    python -m tools.grade --release handout 02 05     what students get: notebooks of these chapters, and their checks
    python -m tools.grade hand-ins/*                  a folder a student, with the notebooks that came back

Both are made from the exercises' one source. A student's notebook has neither solutions nor hidden checks. Each
exercise gives one point for its check and one for a hidden check: the same check on other numbers, which ``--seed``
draws, and what its ``[hidden]`` cell adds. nbgrader puts every check back as it was before a hand-in runs. It needs no
server. Hand-ins are programs and run with your rights: grade those of strangers in a container.
"""

import argparse
import importlib.util
import logging
import os
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


@dataclass(frozen=True)
class Grade:
    """The points of one exercise in a hand-in. said: what the first check that failed says, or "" if none did."""

    student: str
    chapter: str
    exercise: int
    points: float
    most: float
    said: str


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


def grade(hand_ins: Sequence[Path], seed: int) -> list[Grade]:
    """Grade every notebook in every folder. Raises ValueError if there is none, or it is not of an exercise."""
    with TemporaryDirectory() as work:
        course, found = Course(Path(work), seed), []
        for folder in hand_ins:
            for notebook in _notebooks(folder):
                found += course.graded(folder.resolve().name, notebook)
        return found


class Course:
    """nbgrader's folders and database for the hand-ins of one call."""

    def __init__(self, root: Path, seed: int) -> None:
        if importlib.util.find_spec("nbgrader") is None:
            raise ValueError(MISSING)
        from nbgrader.apps import NbGraderAPI
        from traitlets.config import Config

        self.root, self.seed = root, seed
        self.config = Config(
            {
                "CourseDirectory": {"root": str(root)},
                "ClearSolutions": {"code_stub": {"python": "raise NotImplementedError"}},
                "ExecutePreprocessor": {"timeout": SECONDS},
                "Execute": {"timeout": SECONDS},
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
        """The grades of one notebook, one for each exercise."""
        chapter = notebook.stem
        self.released(chapter)
        place = self.root / "submitted" / student / chapter
        place.mkdir(parents=True)
        shutil.copy(notebook, place)
        _done(self.api.autograde(chapter, student), f"{notebook} could not be graded")
        executed = nbformat.read(self.root / "autograded" / student / chapter / notebook.name, as_version=4)
        said = {cell.metadata.get("nbgrader", {}).get("grade_id"): _said(cell) for cell in executed.cells}
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


def table(grades: Sequence[Grade]) -> str:
    """One line an exercise, with the check's sentence, and one line a hand-in with its points."""
    lines = []
    for one in grades:
        name = f"{number_of(Path(one.chapter))}.{one.exercise}"
        lines.append(f"{one.student:<20}{name}  {one.points:g} of {one.most:g}  {one.said}".rstrip())
    for student, chapter in dict.fromkeys((one.student, one.chapter) for one in grades):
        own = [one for one in grades if (one.student, one.chapter) == (student, chapter)]
        lines.append(f"{student:<20}{chapter:<26}{sum(g.points for g in own):g} of {sum(g.most for g in own):g}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 when everything was graded or released, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m tools.grade", description=__doc__)
    parser.add_argument("given", nargs="*", help="folders of hand-ins; with --release, the numbers of chapters")
    parser.add_argument("--release", type=Path, metavar="FOLDER", help="write what students get into this folder")
    parser.add_argument("--seed", type=int, default=1, help="of the hidden checks' numbers (default: 1)")
    options = parser.parse_args(arguments)
    try:
        if options.release:
            for path in release(map(_chapter, options.given or _numbers()), options.seed, options.release.expanduser()):
                print(path)
        elif not options.given:
            raise ValueError("nothing is given to grade: give a folder for each student, or --release FOLDER.")
        else:
            print(table(grade([Path(given).expanduser() for given in options.given], options.seed)))
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


def _notebooks(folder: Path) -> list[Path]:
    """The notebooks of a hand-in."""
    paths = sorted(folder.glob("*.ipynb")) if folder.is_dir() else []
    if not paths:
        raise ValueError(f"{folder} is no folder with notebooks: give a folder for each student.")
    for path in paths:
        if not (FOLDER / "source" / f"{path.stem}.py").exists():
            raise ValueError(f"{path} is not named as an exercise's notebook: give it the name that was handed out.")
    return paths


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
