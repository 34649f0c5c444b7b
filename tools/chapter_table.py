"""README's table of chapters: the page to read, the notebook, and where it runs without an installation."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tools.address import Address
from tools.declared import Declaration
from tools.tour import stops

BEGIN, END = "<!-- chapters: made by make publish, edit nothing here -->", "<!-- end of chapters -->"
BINDER_GB = 2  # what mybinder.org gives a session; chapters that need more get no link
BETWEEN = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)


def table(tour: Sequence[Declaration], pages: Path, address: Address, root: Path) -> str:
    """The table as Markdown, with links relative to the folder `root`."""
    questions = {stop.number: stop.question for stop in stops(list(tour), [])}
    rows = ["| read | question | minutes to run | run |", "|---|---|---|---|"]
    for stop in tour:
        page, notebook = relative(pages / f"{stop.name}.md", root), relative(stop.path, root)
        binder = address.binder(notebook) if stop.memory_gb <= BINDER_GB else None
        links = {"notebook": notebook, "Binder": binder, "Colab": address.colab(notebook)}
        run = ", ".join(f"[{word}]({link})" for word, link in links.items() if link)
        rows.append(f"| [{stop.number} {stop.title}]({page}) | {questions[stop.number]} | {stop.minutes:g} | {run} |")
    return "\n".join(rows)


def relative(path: Path, root: Path) -> str:
    """A path as a link from a file in `root`."""
    return os.path.relpath(path.resolve(), root.resolve()).replace(os.sep, "/")


def spliced(text: str, made: str) -> str:
    """The text with the table between its marks. Raises ``ValueError`` if it has no marks."""
    if not BETWEEN.search(text):
        raise ValueError(f"the text has no place for the table of chapters: write {BEGIN!r} and {END!r} into it.")
    return BETWEEN.sub(lambda _: f"{BEGIN}\n{made}\n{END}", text)
