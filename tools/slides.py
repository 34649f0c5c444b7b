"""The lecture: docs/slides.md with the notebooks' own figures, as one offline HTML file. ``python -m tools.slides``.

In the source every ``##`` heading begins a slide. A paragraph ``Figure: 01-profile`` shows that figure of the last run
with its alt text and caption. Text after ``Notes:`` is for the speaker, and folded.
"""

import argparse
import base64
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from fleke_lib.storage.files import user_path
from tools.markdown import inline_html, to_html
from tools.pages import environment, faults, style, write_whole

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs" / "slides.md"
FIGURE = re.compile(r"^Figure: *(\S+) *$", re.MULTILINE)
NOTES = re.compile(r"^Notes: *", re.MULTILINE)
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}  # the first that exists is shown


@dataclass(frozen=True)
class Slide:
    """One slide as Markdown; ``figures`` are the figures named in ``body``, in their order."""

    title: str
    body: str
    notes: str

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of figures, as in ``fleke_lib.figures``."""
        return tuple(FIGURE.findall(self.body))


def write_slides(figures: Path, target: Path, source: Path = SOURCE) -> None:
    """Write the slides of ``source`` to ``target``, with the pictures in the folder ``figures`` inside the file.

    Raises ``ValueError`` for a missing picture, with the chapter to run, for a formula that does not convert, and for a
    page that would load content from another host.
    """
    deck, slides = read_slides(source.read_text(encoding="utf-8"))
    shown = [
        {"title": inline_html(slide.title), "body": body_html(slide, figures), "notes": Markup(html(slide.notes))}
        for slide in slides
    ]
    page = environment().get_template("slides.html.j2").render(deck=deck, slides=shown, style=style())
    if found := faults(page):
        raise ValueError(f"the slides are not as they should be: {found[0]}")
    write_whole(target, page)


def read_slides(text: str) -> tuple[str, list[Slide]]:
    """The deck's title and its slides. Raises ``ValueError`` if either is missing."""
    head, *sections = re.split(r"^## +", text, flags=re.MULTILINE)
    title = re.search(r"^# +(.+)$", head, re.MULTILINE)
    if not title or not sections:
        raise ValueError("the slides need one heading '# ...' for the deck and '## ...' for every slide: add them.")
    slides = []
    for section in sections:
        heading, _, rest = section.partition("\n")
        body, *notes = NOTES.split(rest, maxsplit=1)
        slides.append(Slide(heading.strip(), body.strip(), "".join(notes).strip()))
    return title[1].strip(), slides


def body_html(slide: Slide, figures: Path) -> Markup:
    """The HTML of a slide below its heading."""
    text, *rest = FIGURE.split(slide.body)  # text, name, text, name, ..., text
    parts = [html(text)]
    for name, after in zip(rest[::2], rest[1::2], strict=True):
        parts += [picture(name, figures), html(after)]
    return Markup("").join(map(Markup, parts))


def picture(name: str, figures: Path) -> Markup:
    """A figure with its alt text, caption and embedded image. Raises ``ValueError`` if it was never drawn."""
    images = [image for suffix in MEDIA if (image := figures / f"{name}{suffix}").exists()]
    words = figures / f"{name}.json"
    if not images or not words.exists():
        raise ValueError(f"the slides show the figure {name}, which is not in {figures}: {remedy(name)}.")
    said = json.loads(words.read_text(encoding="utf-8"))
    data = base64.b64encode(images[0].read_bytes()).decode()
    source = f"data:{MEDIA[images[0].suffix]};base64,{data}"
    frame = '<figure><img src="{}" alt="{}"><figcaption>{}</figcaption></figure>'
    return Markup(frame).format(source, said["alt"], said["caption"])


def remedy(name: str) -> str:
    """How to get a missing figure: its name begins with the number of the chapter that draws it."""
    chapters = sorted((ROOT / "notebooks").glob(f"{name.partition('-')[0]}_*.ipynb")) if name[:2].isdigit() else []
    if not chapters:
        return "no chapter has that number, correct the name in docs/slides.md"
    return f"run its chapter first, make run NOTEBOOKS=notebooks/{chapters[0].name}"


def html(markdown: str) -> str:
    """HTML of a part of a slide; links to notebooks lead to their pages in the same folder."""
    return to_html(markdown.replace("](../notebooks/", "](")).strip()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    build = ROOT / "build"
    figures = user_path(os.environ.get("FLEKE_FIGURES") or build / "figures")
    parser = argparse.ArgumentParser(prog="python -m tools.slides", description=__doc__)
    parser.add_argument("--figures", type=Path, default=figures, help="where make run has put the pictures")
    parser.add_argument("--target", type=Path, default=build / "site" / "slides.html", help="the file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if the file was written, otherwise 1."""
    options = parse(arguments)
    try:
        write_slides(options.figures, options.target)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"slides: {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
