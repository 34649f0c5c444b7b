"""The first page: the tour as a picture, a card for every chapter, links to all other pages."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from tools.chapters import has_results
from tools.execute import Run
from tools.pages import Around, framed
from tools.picture import tour_picture
from tools.sections import first_figure
from tools.tour import Stop

THUMBNAIL = (640, 300)  # pixels at most


@dataclass(frozen=True)
class Card:
    """A chapter on the first page. ``thumbnail`` is the alt text and the image of its first figure."""

    stop: Stop
    run: Run | None
    has_results: bool
    thumbnail: tuple[str, str] | None


def contents(stops: Sequence[Stop], runs: Mapping[str, Run], site: Path, around: Around, slides: bool) -> str:
    """The first page, from the tour's declarations, the current runs, and the pages that the site has."""
    cards = [card(stop, runs, site) for stop in stops if stop.chapter]
    announced = [stop for stop in stops if not stop.chapter]
    picture = tour_picture(stops)
    return framed("contents.html.j2", around, cards=cards, announced=announced, picture=picture, slides=slides)


def card(stop: Stop, runs: Mapping[str, Run], site: Path) -> Card:
    """The card of a chapter that exists."""
    path = site / f"{stop.chapter.name}.html"
    figure = first_figure(path.read_text(encoding="utf-8")) if path.exists() else None
    return Card(stop, runs.get(stop.chapter.name), has_results(path), figure and thumbnail(*figure))


def thumbnail(alt: str, source: str) -> tuple[str, str] | None:
    """A small copy of an embedded picture; None if it is not a picture."""
    try:
        image = Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")
    except (UnidentifiedImageError, ValueError):
        return None
    image.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    small = BytesIO()
    image.quantize(64).save(small, "png", optimize=True)
    return html.unescape(alt), f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"
