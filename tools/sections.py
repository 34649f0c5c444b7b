"""The contents of a finished page: its headings with the text under each, and its first figure."""

import re
from dataclasses import dataclass

from bs4 import BeautifulSoup, Tag

EMBEDDED = re.compile(r'src="data:[^"]*"')
HEADINGS = ("h1", "h2", "h3", "h4")
SILENT = "script, style, annotation, .output_wrapper, .anchor-link, .prompt, .outside"  # not searched
FIGURE = re.compile(r"""<img alt=(?:"([^"]+)"|'([^']+)')[^>]*src="(data:image/png;base64,[^"]+)\"""")


@dataclass(frozen=True)
class Section:
    """A heading and the text up to the next heading; ``level`` is 1 for the page's title."""

    level: int
    anchor: str
    title: str
    text: str


def sections(html: str) -> list[Section]:
    """The sections of a page's ``main`` element, or of a piece of HTML without one, in order."""
    soup = BeautifulSoup(EMBEDDED.sub("", html), "html.parser")
    for silent in soup.select(SILENT):
        silent.decompose()
    main = (soup.main or soup).extract()  # the last section must end here
    headings = [heading for heading in main.find_all(HEADINGS) if heading.get("id")]
    return [
        Section(int(heading.name[1]), str(heading["id"]), words(heading.get_text()), text_under(heading, headings))
        for heading in headings
    ]


def text_under(heading: Tag, headings: list[Tag]) -> str:
    """The text between a heading and the next of these headings."""
    others, pieces = {id(other) for other in headings}, []
    for element in heading.next_elements:
        if id(element) in others:
            break
        if isinstance(element, str) and heading not in element.parents:
            pieces.append(element)
    return words("".join(pieces))


def words(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def first_figure(html: str) -> tuple[str, str] | None:
    """The alt text, still escaped, and the embedded image of a page's first figure; None if it has none."""
    found = FIGURE.search(html)
    return (found[1] or found[2], found[3]) if found else None  # alt texts with double quotes are in single quotes
