"""Figure of chapter 8: how results change with one parameter."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from fleke_lib.figures.style import CYCLE, MARKS, Picture, canvas, finish

COLUMNS = 2


class SweepResult(Protocol):
    """What the figure needs of a sweep (see `reproduce.sweeps`): `lines[name][i]` belongs to `values[i]`."""

    name: str
    question: str
    axis: str
    unit: str
    values: tuple[float, ...]
    lines: Mapping[str, tuple[float, ...]]
    facts: int

    def to_dict(self) -> dict: ...


def sensitivity(found: Sequence[SweepResult], name: str = "08-sensitivity") -> Picture:
    """One panel for each sweep; a parameter that spans a factor of 100 or more gets a logarithmic axis."""
    rows = math.ceil(len(found) / COLUMNS)
    with canvas(rows, COLUMNS, width=9.5, height=3.2 * rows, squeeze=False) as (figure, axes):
        for swept, axis in zip(found, np.ravel(axes), strict=False):
            for (label, line), colour, mark in zip(swept.lines.items(), CYCLE, MARKS, strict=False):
                axis.plot(swept.values, line, color=colour, marker=mark, markersize=4, label=label)
            if min(swept.values) > 0 and max(swept.values) / min(swept.values) >= 100:
                axis.set_xscale("log")
                axis.minorticks_off()
            axis.set_xticks(swept.values, [f"{value:g}" for value in swept.values])
            top = max(1.0, *(value for line in swept.lines.values() for value in line))
            axis.set(xlabel=swept.axis.capitalize(), ylabel=swept.unit.capitalize(), ylim=(0, 1.02 * top))
            axis.set_title(swept.question)
            axis.grid(True, axis="y")
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        for axis in np.ravel(axes)[len(found) :]:
            axis.set_visible(False)
    return finish(
        figure,
        name,
        caption="In each panel one parameter varies and everything else is fixed: "
        + "; ".join(f"{swept.axis} ({swept.facts} facts)" for swept in found)
        + ".",
        alt="Line charts. " + " ".join(_words(swept) for swept in found),
        data={swept.name: swept.to_dict() for swept in found},
    )


def _words(swept: SweepResult) -> str:
    ends = f"from {swept.axis} {swept.values[0]:g} to {swept.values[-1]:g}"
    lines = ", ".join(f"{label} goes from {line[0]:.2f} to {line[-1]:.2f}" for label, line in swept.lines.items())
    return f"{swept.question} {ends.capitalize()}, {lines}."
