"""Exercise notebooks, each written from one source: ``python -m tools.exercises``.

A source is a Python file in percent format (cells begin with ``# %%``). The reader's stub and the folded solution both
come from it, so they always agree. There are six kinds of cells:

    # %% [markdown]                                              text; every line is a comment
    # %%                                                         code that the notebook shows as it is
    # %% [exercise] difficulty=1 importance=5 minutes=15         text; begins with the title, "# ## ..."
    # %%                                                         the function, its solution between two marks
    # %%                                                         the check, one line
    # %% [hidden]                                                code of the graded check; may be left out
    # %% [hint]                                                  text

The last five, in this order, make one exercise. What is hidden is in no notebook that this writes: `tools.grade` adds
it to what it grades. The marks are nbgrader's, ``### BEGIN SOLUTION`` and
``### END SOLUTION``; in the stub ``raise NotImplementedError`` replaces the solution. The cell of a check is tagged
``raises-exception``: an unsolved exercise fails its check, and running the notebook should continue.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.pages import write_whole

FOLDER = Path(__file__).parents[1] / "notebooks" / "exercises"
MARKER = re.compile(r"^# %%(?: \[(\w+)\](.*))?$")
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION$", re.MULTILINE | re.DOTALL)
HEAD = {"difficulty": range(1, 6), "importance": range(1, 6), "minutes": range(5, 31)}
KINDS = ("", "markdown", "exercise", "hidden", "hint")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@dataclass(frozen=True)
class Cell:
    """One cell of a source. kind: one of `KINDS`, "" for code. options: the text after the kind. line: from 1."""

    kind: str
    options: str
    text: str
    line: int


@dataclass(frozen=True)
class Exercise:
    """One exercise. code: its function with the solution between its marks; text and hint: Markdown.

    hidden: what is checked beside the check when a hand-in is graded; empty where the check on other numbers suffices.
    """

    difficulty: int
    importance: int
    minutes: int
    text: str
    code: str
    check: str
    hint: str
    hidden: str = ""

    @property
    def title(self) -> str:
        return self.text.splitlines()[0].removeprefix("## ")

    @property
    def stub(self) -> str:
        """The function without its solution, for the reader to complete."""
        return SOLUTION.sub(r"\1raise NotImplementedError", self.code)

    def hidden_check(self, seed: int) -> str:
        """The check on other numbers, drawn with a seed, and what is hidden besides."""
        more = "".join(f"    {line}\n" if line else "\n" for line in self.hidden.splitlines())
        return f"from checks.algebra import other_numbers\n\nwith other_numbers({seed}):\n    {self.check}\n{more}"

    @property
    def solution(self) -> str:
        """The function with its solution, without the marks."""
        return SOLUTION.sub(lambda match: match[2].rstrip("\n"), self.code)


@dataclass(frozen=True)
class Sheet:
    """The exercises of one chapter, after an opening of text and code that does not depend on them."""

    opening: tuple[Cell, ...]
    exercises: tuple[Exercise, ...]


def read_sheet(source: str) -> Sheet:
    """The sheet in a source. Raises ValueError, which names the line, if it does not follow the format."""
    cells = list(_cells(source))
    starts = [i for i, cell in enumerate(cells) if cell.kind == "exercise"]
    opening = cells[: starts[0]] if starts else cells
    if strays := [cell for cell in opening if cell.kind in ("hidden", "hint")]:
        raise ValueError(f"line {strays[0].line}: a {strays[0].kind} belongs to an exercise: put it behind its check.")
    ends = [*starts[1:], len(cells)]
    return Sheet(tuple(opening), tuple(_exercise(cells[i:j]) for i, j in zip(starts, ends, strict=False)))


def notebook(sheet: Sheet) -> NotebookNode:
    """The notebook of a sheet, without outputs; cell ids depend only on the cells' order."""
    cells = [new_code_cell(cell.text) if not cell.kind else new_markdown_cell(cell.text) for cell in sheet.opening]
    for number, exercise in enumerate(sheet.exercises, start=1):
        cells += [
            new_markdown_cell(task(number, exercise)),
            new_code_cell(exercise.stub),
            new_code_cell(exercise.check, metadata={"tags": ["raises-exception"]}),
            new_markdown_cell(
                folded("Hint", exercise.hint) + "\n\n" + folded("Solution", f"```python\n{exercise.solution}\n```")
            ),
        ]
    for number, cell in enumerate(cells):
        cell.id = f"c{number:02}"
    made = new_notebook(cells=cells, metadata=METADATA)
    nbformat.validate(made)
    return made


def written(source: Path) -> str:
    """The text of the notebook made from a source. Raises ValueError, which names the file and the line."""
    try:
        sheet = read_sheet(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{source.name}, {error}") from None
    return nbformat.writes(notebook(sheet)) + "\n"


def main() -> int:
    """Write every notebook; return the exit status."""
    try:
        for source in sorted((FOLDER / "source").glob("[0-9]*.py")):
            target = FOLDER / f"{source.stem}.ipynb"
            write_whole(target, written(source))
            print(target)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _cells(source: str) -> Iterator[Cell]:
    """The cells of a source, their text without comment signs."""
    lines = source.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("# %%")]
    if not starts or any(line.strip() for line in lines[: starts[0]]):
        raise ValueError("line 1: a source begins with a cell: write # %% [markdown].")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        marker = MARKER.match(lines[start])
        if not marker or (marker[1] or "") not in KINDS:
            raise ValueError(f"line {start + 1}: {lines[start]!r} begins no cell: write # %% or [markdown] and so on.")
        body = "\n".join(lines[start + 1 : end]).strip("\n")
        text = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if marker[1] else body
        yield Cell(marker[1] or "", (marker[2] or "").strip(), text, start + 1)


def _exercise(cells: list[Cell]) -> Exercise:
    """Four or five cells as an exercise."""
    task = cells[0]
    if [cell.kind for cell in cells if cell.kind != "hidden"] != ["exercise", "", "", "hint"] or (
        len(cells) > 4 and [cell.kind for cell in cells[3:]] != ["hidden", "hint"]
    ):
        raise ValueError(
            f"line {task.line}: an exercise is its text, the function, the check and a hint, in this order."
        )
    found = dict(option.partition("=")[::2] for option in task.options.split())
    if found.keys() != HEAD.keys() or any(not found[name].isdigit() for name in HEAD):
        raise ValueError(f"line {task.line}: an exercise says {', '.join(HEAD)}, each as name=number.")
    head = {name: int(found[name]) for name in HEAD}
    for name, allowed in HEAD.items():
        if head[name] not in allowed:
            raise ValueError(f"line {task.line}: {name} is {head[name]}: give {allowed[0]} to {allowed[-1]}.")
    if not task.text.startswith("## "):
        raise ValueError(f"line {task.line}: an exercise begins with its title: write # ## and the title.")
    _, function, check, *hidden, hint = cells
    if len(SOLUTION.findall(function.text)) != 1:
        raise ValueError(f"line {function.line}: mark one solution, with ### BEGIN SOLUTION and ### END SOLUTION.")
    more = "".join(cell.text for cell in hidden)
    return Exercise(**head, text=task.text, code=function.text, check=check.text, hint=hint.text, hidden=more)


def task(number: int, exercise: Exercise) -> str:
    """Title, difficulty line and task as Markdown."""
    title, _, text = exercise.text.partition("\n")
    head = (
        f"*Difficulty {exercise.difficulty} of 5, importance {exercise.importance} of 5, "
        f"about {exercise.minutes} minutes.*"
    )
    return f"## {number}. {title.removeprefix('## ')}\n\n{head}\n{text}"


def folded(summary: str, text: str) -> str:
    """Markdown that unfolds on a click; with the blank lines it is parsed as Markdown inside the HTML."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


if __name__ == "__main__":
    sys.exit(main())
