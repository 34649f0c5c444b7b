"""The common style of all figures, and `finish`, which writes image, caption, alt text and numbers to disk together.

    with canvas(columns=2) as (figure, (left, right)):
        left.plot(layers, means, color=COLOURS["blue"])
        left.set(xlabel="Layer (counted from 0)", ylabel="Probability (0 to 1)")
        ...
    return finish(figure, "01-profile", caption="...", alt="...", data={"layers": layers, "means": means})

Nothing here uses pyplot: figures share no state and need no window.
"""

import base64
import html
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fleke_lib.storage.files import half_made, user_path

VARIABLE = "FLEKE_FIGURES"
DOTS_PER_INCH = 120

# Okabe and Ito's palette: eight colours that stay distinguishable with all common kinds of colour vision.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
CYCLE = tuple(COLOURS.values())
MARKS = "os^Dvp"  # beside colours, for those who print without
AMOUNTS = "cividis"  # from little to much
SIGNED = "PuOr"  # below and above zero
GREY = "#6b6b6b"

STYLE = {
    "axes.prop_cycle": mpl.cycler(color=CYCLE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "figure.constrained_layout.use": True,
    "grid.color": "#e0e0e0",
    "image.cmap": AMOUNTS,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "text.parse_math": False,  # tokens may hold a dollar sign
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished figure; as the last line of a cell it is shown with its caption and its alt text.

    png: the image. data: the plotted numbers, as in the JSON file beside it. path: the image's file.
    """

    name: str
    png: bytes = field(repr=False)
    caption: str
    alt: str
    data: dict = field(repr=False)
    path: Path = field(repr=False)

    def _repr_html_(self) -> str:
        image = base64.b64encode(self.png).decode()
        return (
            f'<figure style="margin: 1em 0"><img alt="{html.escape(self.alt)}" style="max-width: 100%" '
            f'src="data:image/png;base64,{image}"><figcaption>{html.escape(self.caption)}</figcaption></figure>'
        )


@contextmanager
def canvas(
    rows: int = 1, columns: int = 1, *, width: float = 8.0, height: float = 3.6, **subplots: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes (one, or an array of them) in the common style; draw inside the block.

    Args:
        rows, columns: the grid of axes.
        width, height: of the whole figure, in inches.
        subplots: passed to `Figure.subplots`, such as `sharey=True` or `width_ratios=[2, 1]`.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        yield figure, figure.subplots(rows, columns, **subplots)


def finish(figure: Figure, name: str, caption: str, alt: str, data: dict) -> Picture:
    """Write `name.png` and, beside it, `name.json` with the caption, the alt text and the plotted numbers.

    Both go to the folder named by FLEKE_FIGURES, by default `build/figures` of the repository. Tensors and arrays in
    `data` become lists, numbers keep six significant digits, and numbers that are not finite become null.

    Raises:
        ValueError: the name has other characters than lowercase letters, digits and single hyphens; caption or alt text
            is missing; or an axis with tick labels has no label.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"the picture's name {name!r} becomes a file: use small letters, digits and single hyphens.")
    if not caption.strip() or not alt.strip():
        raise ValueError(f"the picture {name} lacks a caption or an alt text: say in words what it shows.")
    with mpl.rc_context(STYLE):
        _check_labels(figure, name)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    picture = Picture(name, buffer.getvalue(), caption, alt, plain(data), folder() / f"{name}.png")
    words = {"name": name, "caption": caption, "alt": alt, "data": picture.data}
    _write(picture.path, picture.png)
    _write(picture.path.with_suffix(".json"), (json.dumps(words, indent=1, ensure_ascii=False) + "\n").encode())
    return picture


def whiskers(value: float, interval: tuple[float, float]) -> list[list[float]]:
    """An error bar's lengths below and above a value, as `errorbar` expects them; never negative from rounding."""
    low, high = interval
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def folder() -> Path:
    """The folder of the figures: FLEKE_FIGURES, or `build/figures` of the checkout, or else of the current folder."""
    root = Path(__file__).resolve().parents[2]
    checkout = (root / "notebooks").is_dir()  # it is not where the package alone is installed
    return user_path(os.environ.get(VARIABLE) or (root if checkout else Path.cwd()) / "build" / "figures")


def plain(value: Any) -> Any:
    """Convert tensors, arrays and containers of them to numbers, lists and dicts that JSON can represent."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, tuple | list | set | range):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _check_labels(figure: Figure, name: str) -> None:
    figure.draw_without_rendering()
    common = {"x": figure.get_supxlabel(), "y": figure.get_supylabel()}
    for axes in figure.axes:
        for direction, axis in _axes_with_ticks(axes):
            if not (axis.get_label_text() or common[direction]):
                raise ValueError(f"the picture {name} has a {direction} axis without a label: name it, with its unit.")


def _axes_with_ticks(axes: Axes) -> list[tuple[str, Any]]:
    if not axes.axison or not axes.get_visible():
        return []
    both = (("x", axes.xaxis), ("y", axes.yaxis))
    return [(d, axis) for d, axis in both if any(t.get_visible() and t.get_text() for t in axis.get_ticklabels())]


def _write(path: Path, content: bytes) -> None:
    with half_made(path) as half:
        half.write_bytes(content)
