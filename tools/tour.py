"""The tour: every chapter with the question it answers, as chapter 00 lists them, and the exercises that go with it."""

import re
from dataclasses import dataclass
from pathlib import Path

from tools.declared import Declaration, read_notebook, title_of
from tools.pages import Page

ROW = re.compile(r"^\|\s*(?:\*\*|\[)?(\d\d) ([^|\]*]+?)(?:\*\*|\]\([^)|]*\))?\s*\|\s*([^|]+?)\s*\|", re.MULTILINE)


@dataclass(frozen=True)
class Stop:
    """A place on the tour; ``chapter`` is None while it is only announced."""

    number: str
    title: str
    question: str
    chapter: Declaration | None = None
    exercises: tuple[Page, ...] = ()


def stops(chapters: list[Declaration], exercises: list[Page]) -> list[Stop]:
    """Every chapter that is there or announced, in order."""
    rows = ROW.findall(opening(chapters[0].path))
    announced = {number: (capital(title), capital(question)) for number, title, question in rows}
    written = {chapter.name[:2]: chapter for chapter in chapters}
    return [
        Stop(
            number,
            written[number].title if number in written else announced[number][0],
            announced.get(number, ("", ""))[1],
            written.get(number),
            tuple(page for page in exercises if page.source.name.startswith(number)),
        )
        for number in sorted({*announced, *written})
    ]


def capital(text: str) -> str:
    """Text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def opening(path: Path) -> str:
    """The text cells of a notebook."""
    return "\n\n".join(cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown")


def exercises(folder: Path) -> list[Page]:
    """The notebooks in a tour's folder of exercises; none when there is no such folder."""
    paths = sorted((folder / "exercises").glob("*.ipynb"))
    return [Page(path, f"exercises_{path.stem}.html", title_of(read_notebook(path), path.stem)) for path in paths]
