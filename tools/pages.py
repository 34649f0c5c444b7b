"""What all pages of the site share: frame, style, checks, and writing to disk."""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from pygments.formatters import HtmlFormatter

from tools.markdown import inline_html
from tools.search import INDEX
from tools.sections import sections

TEMPLATES = Path(__file__).parent / "template"
LOADED = re.compile(
    r"""(?:\bsrc\s*=\s*["']?|<link\b[^>]*\bhref\s*=\s*["']?|url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"'\s>)]+)"""
)
PICTURE = re.compile(r"<img\b[^>]*>")
DESCRIBED = re.compile(r"""\balt\s*=\s*["'](?!No description has been provided)""")  # nbconvert's text for no alt text


@dataclass(frozen=True)
class Page:
    """A page of the site: the notebook or document that it is made from, its file name, and its title."""

    source: Path
    name: str
    title: str


@dataclass(frozen=True)
class Around:
    """The links around the text of a page: its neighbours on the tour, and the pages outside the tour."""

    previous: Page | None = None
    next: Page | None = None
    further: tuple[Page, ...] = ()


def framed(template: str, around: Around, body: str = "", **variables: object) -> str:
    """A whole page from one of the templates, with a table of contents if it has two sections or more."""
    outline = [section for section in sections(body) if section.level == 2]
    return (
        environment()
        .get_template(template)
        .render(
            style=style(),
            search_index=INDEX,
            around=around,
            outline=outline if len(outline) > 1 else [],
            body=Markup(body),
            **variables,
        )
    )


@cache
def environment() -> Environment:
    """The jinja2 environment of all templates."""
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters["inline"] = inline_html
    return made


@cache
def style() -> Markup:
    """The site's only stylesheet, with code colours for light and dark mode."""
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    own = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return Markup(f"<style>\n{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n{own}</style>")


def faults(html: str) -> list[str]:
    """One sentence for each fault of a page: content loaded from another host, or pictures without alt text.

    Links to other hosts are allowed.
    """
    found = [f"it loads {address} from another host: embed it." for address in LOADED.findall(html)]
    mute = [tag for tag in PICTURE.findall(html) if not DESCRIBED.search(tag)]
    if mute:
        found.append(f"{len(mute)} of its pictures have no alt text: show them through fleke_lib.figures.")
    return found


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.half")
    half.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(half, path)
