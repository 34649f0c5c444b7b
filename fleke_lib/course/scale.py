"""The scale at which a lesson runs; the only place that reads ``FLEKE_SCALE``.

``smoke`` tests that every line runs (CI), ``lesson`` is for a reader's laptop, ``full`` is for reported results. A
notebook gives its three sizes where it uses them:

    facts = load_facts("atlas", limit=scale().pick(smoke=4, lesson=40, full=200))
"""

import os
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

VARIABLE = "FLEKE_SCALE"
NAMES = ("smoke", "lesson", "full")
DEFAULT = "lesson"


@dataclass(frozen=True)
class Scale:
    """One of the three scales, by name. Raises ``ValueError`` for any other name."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            names = ", ".join(NAMES)
            raise ValueError(f"{VARIABLE} is {self.name!r}, but it must be one of {names}: set it to one, or unset it.")

    def pick(self, *, smoke: T, lesson: T, full: T) -> T:
        """Return the value given for this scale."""
        return {"smoke": smoke, "lesson": lesson, "full": full}[self.name]


def scale() -> Scale:
    """Return the scale that ``FLEKE_SCALE`` names, or ``lesson`` if it is unset or empty."""
    return Scale(os.environ.get(VARIABLE) or DEFAULT)
