"""The figures of the course: list them, or make a single one.

No figure has a second implementation: it is drawn by the notebook that shows it. All code cells from the top to the one
that draws it run as a plain script in a separate process, because the figure may depend on any of them. Only that
figure is kept: the image as PNG and SVG, and a JSON file with the plotted numbers, the caption and the alt text.
"""

import argparse
import difflib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl

from fleke_lib.course.scale import NAMES, VARIABLE, Scale, scale
from fleke_lib.figures import style
from fleke_lib.figures.catalogue import NOTEBOOKS, Entry, catalogue, code_cells
from fleke_lib.storage.files import half_made, user_path

ENDINGS = (".svg", ".json", ".png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `figures`."""
    parser.add_argument("--only", metavar="NAME", help="make this figure (without it, all names are listed)")
    parser.add_argument(
        "--to", metavar="FOLDER", type=user_path, help="where its files go (build/figures of the checkout)"
    )
    parser.add_argument("--scale", choices=NAMES, help=f"how large the lesson runs ({VARIABLE}, else lesson)")


def main(arguments: argparse.Namespace) -> int:
    """List the figures, or make one."""
    known = catalogue()
    if arguments.only is None:
        print(listing(known.values()))
        return 0
    entry, size = find(arguments.only, known), Scale(arguments.scale) if arguments.scale else scale()
    cells = len(_cells(entry))
    print(f"{entry.name}: {cells} cells of {entry.notebook.name} at {size.name} scale", file=sys.stderr)
    for path in make(entry, (arguments.to or style.folder()).resolve(), size):
        print(path)
    return 0


def listing(entries: Iterable[Entry]) -> str:
    """One line per figure: name, chapter, caption."""
    return "\n".join(f"{entry.name:<20} {entry.chapter:<24} {entry.caption}" for entry in entries)


def find(name: str, known: dict[str, Entry]) -> Entry:
    """The figure of this name. Raises ValueError with the nearest names if there is none."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or list(known)[:3]
        raise ValueError(f"there is no figure {name!r}: the nearest names are {', '.join(near)}.")
    return known[name]


def make(entry: Entry, to: Path, size: Scale) -> list[Path]:
    """Run the notebook up to the figure, and keep the figure's files in the folder `to`.

    Raises:
        RuntimeError: a cell failed, and its error has been printed; nothing has been written.
    """
    with TemporaryDirectory() as folder:
        work = Path(folder)
        script = work / f"{entry.chapter}.py"
        script.write_text(as_script(entry), encoding="utf-8")
        roots = [str(NOTEBOOKS.parent), str(entry.notebook.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {style.VARIABLE: str(work / "figures"), VARIABLE: size.name, "PYTHONPATH": os.pathsep.join(roots)}
        run = subprocess.run(
            [sys.executable, script], cwd=entry.notebook.parent, env=os.environ | variables, check=False
        )
        if run.returncode:
            raise RuntimeError(f"{entry.notebook.name} failed before {entry.name} was drawn: see the error above.")
        return [_keep(work / "figures" / f"{entry.name}{ending}", to) for ending in ENDINGS]


def as_script(entry: Entry) -> str:
    """The notebook's code up to the figure's cell, as a program that writes every figure as SVG too."""
    parts = [
        f"# {entry.notebook.name}, up to {entry.name}",
        f"import {__name__} as _reproduce",
        "_reproduce.write_svg()",
    ]
    return "\n\n".join([*parts, *(f"# cell {number}\n{source}" for number, source in _cells(entry))]) + "\n"


def write_svg() -> None:
    """Make `finish` write `name.svg` beside `name.png`; must be called before a module of figures is imported."""
    finish = style.finish

    def also(figure, name, caption, alt, data):
        picture = finish(figure, name, caption, alt, data)
        same = {"svg.hashsalt": name}  # the same figure gets the same bytes
        words = {"Title": name, "Description": f"{caption} {alt}", "Date": None, "Creator": None}
        with mpl.rc_context(style.STYLE | same), half_made(picture.path.with_suffix(".svg")) as half:
            figure.savefig(half, format="svg", metadata=words)
        return picture

    style.finish = also


def _cells(entry: Entry) -> list[tuple[int, str]]:
    return [(number, source) for number, source in code_cells(entry.notebook) if number <= entry.cell]


def _keep(made: Path, to: Path) -> Path:
    with half_made(to / made.name) as half:
        half.write_bytes(made.read_bytes())
    return to / made.name
