"""Answers folded under a chapter's closing questions, copied from the teacher's page, which is their one source."""

import copy
import os
import re
from pathlib import Path

from nbformat import NotebookNode

from tools.links import ELSEWHERE

TEACHING = Path("docs") / "teaching.md"
FOLDED = re.compile(r"\n*<details><summary>Answer to question \d</summary>\n.*?\n</details>", re.DOTALL)
QUESTIONS = re.compile(r"^## Three [^\n]*\n+1\. .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"\]\(([^)\s]+)\)")


def answers(teaching: str, number: str) -> list[str]:
    """The answers to the questions of a chapter, by its number; empty if the page has none."""
    found = re.search(rf"^### Chapter {number}: .*?(?=^##|\Z)", teaching, re.MULTILINE | re.DOTALL)
    return [answer.strip() for answer in re.split(r"\*Question \d\.\*", found[0])[1:]] if found else []


def with_answers(notebook: NotebookNode, found: list[str], folder: Path, page: Path) -> NotebookNode:
    """A copy of a notebook in `folder` with these answers of `page` folded under its questions, in place of older ones.

    Raises ``ValueError`` if it has answers but no questions.
    """
    made = copy.deepcopy(notebook)
    if not found:
        return made
    for cell in made.cells[::-1]:
        text = FOLDED.sub("", cell.source)
        if cell.cell_type == "markdown" and (place := QUESTIONS.search(text)):
            moved = [ADDRESS.sub(lambda link: f"]({moved_address(link[1], folder, page)})", answer) for answer in found]
            cell.source = text[: place.end()] + "".join(map(folded, range(1, 10), moved)) + text[place.end() :]
            return made
    raise ValueError(f"{page} answers questions that no cell under a heading '## Three ...' asks: add them there.")


def folded(number: int, answer: str) -> str:
    """One answer behind a line that opens it."""
    return f"\n\n<details><summary>Answer to question {number}</summary>\n\n{answer}\n\n</details>"


def moved_address(address: str, folder: Path, page: Path) -> str:
    """A link of `page` as it is written in a file of `folder`."""
    if ELSEWHERE.match(address):
        return address
    file, mark, fragment = address.partition("#")
    target = page.parent / file if file else page
    return os.path.relpath(target.resolve(), folder.resolve()).replace(os.sep, "/") + mark + fragment
