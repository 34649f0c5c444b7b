"""Claims: a sentence, its source, how it is measured here, the bound it must reach, and the measured values.

A claim is measured on several seeds; each seed is a federation of other facts (`Scenario`). A claim is held if the
whole 95% interval over seeds reaches the bound, and not held if no part of it does. If the interval spans the bound,
the claim is undecided. An identity is held if every seed reaches its bound. Claims that are not held, undecided or not
testable here stay in the table.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Literal

from scipy.stats import t as student
from tqdm.auto import tqdm

from fleke_lib.reproduce.scenarios.scenario import Scenario

Verdict = Literal["held", "undecided", "not held", "not testable here", "to be measured"]


@dataclass(frozen=True)
class Bound:
    """The least or greatest value with which a claim is held."""

    number: float
    side: Literal["at least", "at most"] = "at least"

    def reached(self, value: float) -> bool:
        return value >= self.number if self.side == "at least" else value <= self.number

    def __str__(self) -> str:
        return f"{self.side} {plain(self.number)}"


@dataclass(frozen=True)
class Claim:
    """A claim and its experiment.

    name: for the command line. sentence: what is claimed. source: who claims it. how: the experiment, in words.
    measure: from a scenario to a number; None if the claim cannot be tested here, and `how` then says why.
    seeds: the greatest number of scenarios to measure; all by default.
    identity: whether it must hold exactly, or up to rounding, on every seed; one counterexample would be a bug.
    """

    name: str
    sentence: str
    source: str
    how: str
    bound: Bound | None = None
    measure: Callable[[Scenario], float] | None = field(default=None, repr=False)
    seeds: int | None = None
    identity: bool = False


@dataclass(frozen=True)
class Finding:
    """The result of a claim: one value per seed, and the total seconds of all measurements."""

    name: str
    sentence: str
    source: str
    how: str
    bound: str
    values: tuple[float, ...]
    seconds: float
    verdict: Verdict

    @property
    def mean(self) -> float:
        return mean(self.values) if self.values else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of Student's t over seeds, see `interval`."""
        return interval(self.values)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict) -> "Finding":
        return cls(**{**found, "values": tuple(found["values"])})


def reproduce(claims: Sequence[Claim], scenarios: Sequence[Scenario]) -> list[Finding]:
    """Measure claims, each on its number of scenarios; results that several claims need are computed once."""
    return list(findings(claims, scenarios))


def findings(claims: Sequence[Claim], scenarios: Sequence[Scenario]) -> Iterable[Finding]:
    """The findings of `reproduce`, one after another as they are measured."""
    for claim in tqdm(claims, desc="claims", leave=False):
        begin = time.perf_counter()
        values = (
            [] if claim.measure is None else [float(claim.measure(scenario)) for scenario in scenarios[: claim.seeds]]
        )
        yield judged(claim, values, time.perf_counter() - begin)


def judged(claim: Claim, values: Sequence[float], seconds: float) -> Finding:
    """The finding of a claim from its measured values."""
    return Finding(
        claim.name,
        claim.sentence,
        claim.source,
        claim.how,
        str(claim.bound) if claim.bound else "",
        tuple(values),
        round(seconds, 1),
        verdict(claim, values),
    )


def verdict(claim: Claim, values: Sequence[float]) -> Verdict:
    """Held if both ends of the interval reach the bound, not held if none does, else undecided.

    For an identity the values themselves count instead of the ends: it is held only if every one reaches the bound.
    """
    if claim.bound is None:
        return "not testable here"
    if not values:
        return "to be measured"
    reached = [claim.bound.reached(value) for value in (values if claim.identity else interval(values))]
    if all(reached):
        return "held"
    return "undecided" if any(reached) and not claim.identity else "not held"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of Student's t for the mean; a point if there is one value or all are equal, nan if none.

    A single value has no interval, so the value itself decides.
    """
    middle = mean(values) if values else math.nan
    if len(values) < 2 or len(set(values)) == 1:
        return middle, middle
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return middle - half, middle + half


def plain(number: float) -> str:
    """A number with up to three significant digits; very small and very large ones as a power of ten."""
    if number == 0 or (math.isfinite(number) and 1e-3 <= abs(number) < 1e5):
        return f"{number:.3g}"
    return f"{number:.0e}"
