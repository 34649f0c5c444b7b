"""The tour: every chapter with the question that it answers, as listed in chapter 00, and its exercises."""

import re
from dataclasses import dataclass
from pathlib import Path

from tools.declared import Declaration, number_of, read_notebook, title_of
from tools.pages import Page

ROW = re.compile(r"^\|\s*(?:\*\*|\[)?(\d\d[a-z]?) ([^|\]*]+?)(?:\*\*|\]\([^)|]*\))?\s*\|\s*([^|]+?)\s*\|", re.MULTILINE)


@dataclass(frozen=True)
class Stop:
    """A chapter on the tour; ``chapter`` is None while it is only announced."""

    number: str
    title: str
    question: str
    chapter: Declaration | None = None
    exercises: tuple[Page, ...] = ()


def stops(chapters: list[Declaration], exercises: list[Page]) -> list[Stop]:
    """Every chapter that exists or is announced, in order."""
    rows = ROW.findall(opening(chapters[0].path))
    announced = {number: (capital(title), capital(question)) for number, title, question in rows}
    written = {chapter.number: chapter for chapter in chapters}
    return [
        Stop(
            number,
            written[number].title if number in written else announced[number][0],
            announced.get(number, ("", ""))[1],
            written.get(number),
            tuple(page for page in exercises if number_of(page.source) == number),
        )
        for number in sorted({*announced, *written})
    ]


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def opening(path: Path) -> str:
    """The text of all text cells of a notebook."""
    return "\n\n".join(cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown")


def exercises(folder: Path) -> list[Page]:
    """The pages of the notebooks in the tour's folder of exercises; empty if there is no such folder."""
    paths = sorted((folder / "exercises").glob("*.ipynb"))
    return [Page(path, f"exercises_{path.stem}.html", title_of(read_notebook(path), path.stem)) for path in paths]
