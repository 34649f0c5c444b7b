"""The tour as a picture: a winding path through its chapters, each with its question, as SVG in the page's own colours.

Text in an SVG does not wrap, and it shrinks with the drawing. There are therefore two drawings: one with three chapters
per row for wide pages, and one with a single column for narrow pages. The stylesheet shows the one that fits.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from markupsafe import Markup, escape

from tools.tour import Stop

RADIUS = 23


@dataclass(frozen=True)
class Drawing:
    """One layout of the tour, in SVG units, which are pixels at full size.

    place: the position of the i-th stop's circle. bend: the path from one position to the next. text: the offset of a
    stop's text from its circle. letters: characters per line. below: space under the last circle.
    """

    name: str
    width: int
    place: Callable[[int], tuple[int, int]]
    bend: Callable[[tuple[int, int], tuple[int, int]], str]
    text: tuple[int, int]
    anchor: str
    letters: int
    below: int


def place_wide(i: int) -> tuple[int, int]:
    """Three per row; every second row runs from right to left."""
    row, column = divmod(i, 3)
    return 180 + 330 * (2 - column if row % 2 else column), 42 + 166 * row


def bend_wide(start: tuple[int, int], end: tuple[int, int]) -> str:
    """A straight line within a row; a curve around the outside to the next row."""
    if start[1] == end[1]:
        return f"H {end[0]}"
    out = start[0] + (215 if start[0] > 500 else -215)
    return f"C {out} {start[1]}, {out} {end[1]}, {end[0]} {end[1]}"


def place_narrow(i: int) -> tuple[int, int]:
    """One below the other, alternating a little to the left and right."""
    return 34 + 10 * (i % 2), 34 + 92 * i


def bend_narrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """A gentle curve down."""
    middle = (start[1] + end[1]) // 2
    return f"C {start[0]} {middle}, {end[0]} {middle}, {end[0]} {end[1]}"


WIDE = Drawing("wide", 1020, place_wide, bend_wide, (0, 50), "middle", 36, 100)
NARROW = Drawing("narrow", 350, place_narrow, bend_narrow, (38, -8), "start", 36, 50)


def tour_picture(stops: Sequence[Stop]) -> Markup:
    """Both drawings; an existing chapter links to its page, and one that is only announced is dashed."""
    return Markup("\n").join(drawn(stops, drawing) for drawing in (WIDE, NARROW))


def drawn(stops: Sequence[Stop], drawing: Drawing) -> Markup:
    """One drawing."""
    places = [drawing.place(i) for i in range(len(stops))]
    end = max(y for _, y in places)
    pieces = [piece(drawing, a, b, stop) for a, b, stop in zip(places, places[1:], stops[1:], strict=False)]
    circles = [mark(stop, at, drawing) for stop, at in zip(stops, places, strict=True)]
    # The colour gradient spans the whole picture and shows how far along the tour a chapter is.
    return Markup(
        '<svg class="tour-picture {name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="group" aria-label="The tour, chapter by chapter">\n'
        '<linearGradient id="{name}-way" gradientUnits="userSpaceOnUse" x1="0" y1="0" x2="0" y2="{end}">'
        '<stop class="from"/><stop class="over" offset=".5"/><stop class="to" offset="1"/></linearGradient>\n'
        '<g stroke="url(#{name}-way)">\n{pieces}\n</g>\n{circles}\n</svg>'
    ).format(
        name=drawing.name, width=drawing.width, height=end + drawing.below, end=end,
        pieces=Markup("\n").join(pieces), circles=Markup("\n").join(circles),
    )  # fmt: skip


def piece(drawing: Drawing, start: tuple[int, int], end: tuple[int, int], to: Stop) -> Markup:
    """The path from one stop to the next."""
    kind = "way-there" if to.chapter else "way-there announced"
    return Markup('<path class="{}" d="M {} {} {}"/>').format(kind, *start, drawing.bend(start, end))


def mark(stop: Stop, at: tuple[int, int], drawing: Drawing) -> Markup:
    """A stop: its circle with the number, its title, and its question in lines."""
    x, y = at[0] + drawing.text[0], at[1] + drawing.text[1]
    lines = balanced(stop.question, drawing.letters)
    content = Markup(
        '<circle cx="{}" cy="{}" r="{}" stroke="url(#{}-way)"/><text class="number" x="{}" y="{}">{}</text>'
        '<text class="title" x="{}" y="{}" text-anchor="{}">{}</text>'
        '<text class="question" x="{}" y="{}" text-anchor="{}">{}</text>'
    ).format(
        *at, RADIUS, drawing.name, at[0], at[1] + 6, stop.number,
        x, y, drawing.anchor, stop.title, x, y, drawing.anchor, spans(lines, x),
    )  # fmt: skip
    if not stop.chapter:
        return Markup('<g class="stop announced">{}</g>').format(content)
    return Markup('<a class="stop" href="{}.html">{}</a>').format(stop.chapter.name, content)


def spans(lines: Iterable[str], x: int) -> Markup:
    """Lines of text, one below the other."""
    return Markup(" ").join(Markup('<tspan x="{}" dy="1.35em">{}</tspan>').format(x, escape(line)) for line in lines)


def balanced(text: str, letters: int) -> list[str]:
    """Text in the fewest lines of at most `letters` characters, of about equal length."""
    fewest = len(wrap(text, letters))
    return next(lines for width in range(1, letters + 1) if len(lines := wrap(text, width)) <= fewest)
