"""Pages of the repository's Markdown documents, which are not part of the tour."""

from collections.abc import Mapping
from pathlib import Path

from tools.links import Lead
from tools.markdown import Anchors, github_anchor, to_html
from tools.pages import Around, Page, framed

FOLDERS = ("docs", "data")
SLIDES = "slides.md"  # becomes slides, not a page


def documents(root: Path) -> list[Page]:
    """The documents of a checkout, folder by folder; the title of each is its first heading."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).glob("*.md")) if path.name != SLIDES]
    return [Page(path, f"{path.stem}.html", title_of(path)) for path in paths]


def title_of(path: Path) -> str:
    """The first heading of a document, or the file's name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("#").strip() for line in lines if line.startswith("# ")), path.stem)


def document(page: Page, around: Around, pages: Mapping[Path, str]) -> str:
    """The page of a document.

    Raises ``ValueError`` for a formula that does not convert.
    """
    source = page.source.read_text(encoding="utf-8")
    body = to_html(source, Lead(page.source, pages), Anchors(github_anchor))
    return framed("frame.html.j2", around, body, title=page.title)
