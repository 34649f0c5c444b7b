"""Claims: a sentence, its source, how it is measured here, what it must reach, and what it reached.

A claim is measured on several seeds, each its own federation of other facts (`Scenario`). It is held where the mean
over seeds reaches the bound. One that is not held stays in the table, and so does one that cannot be tested here.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Literal

from scipy.stats import t as student
from tqdm.auto import tqdm

from fleke_lib.reproduce.scenario import Scenario

Verdict = Literal["held", "not held", "not testable here"]


@dataclass(frozen=True)
class Bound:
    """What a number must reach."""

    number: float
    side: Literal["at least", "at most"] = "at least"

    def reached(self, value: float) -> bool:
        return value >= self.number if self.side == "at least" else value <= self.number

    def __str__(self) -> str:
        return f"{self.side} {plain(self.number)}"


@dataclass(frozen=True)
class Claim:
    """name: for the command line. sentence: what is claimed. source: who claims it. how: the experiment, in words.

    measure: from a world to a number; None where it cannot be tested here, and `how` then says why.
    seeds: how many worlds at most are asked.
    identity: it must hold exactly, or to rounding, on every seed, so that one counterexample would be a fault.
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
    """What a claim came to: one value a seed, and the seconds that all of them took together."""

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
        """95% of Student's t over seeds: wide for few of them, and a point where all agree or there is one."""
        if len(self.values) < 2:
            return self.mean, self.mean
        half = float(student.ppf(0.975, len(self.values) - 1)) * stdev(self.values) / math.sqrt(len(self.values))
        return self.mean - half, self.mean + half

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict) -> "Finding":
        return cls(**{**found, "values": tuple(found["values"])})


def reproduce(claims: Sequence[Claim], scenarios: Sequence[Scenario]) -> list[Finding]:
    """Measure claims, each on as many of the worlds as it wants; what two claims need is computed once."""
    return list(findings(claims, scenarios))


def findings(claims: Sequence[Claim], scenarios: Sequence[Scenario]) -> Iterable[Finding]:
    """The same, one after another."""
    for claim in tqdm(claims, desc="claims", leave=False):
        begin = time.perf_counter()
        values = (
            [] if claim.measure is None else [float(claim.measure(scenario)) for scenario in scenarios[: claim.seeds]]
        )
        yield judged(claim, values, time.perf_counter() - begin)


def judged(claim: Claim, values: Sequence[float], seconds: float) -> Finding:
    """What a claim came to, given what it measured."""
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
    """Held where the mean of the values reaches the bound."""
    if not values or claim.bound is None:
        return "not testable here"
    return "held" if claim.bound.reached(mean(values)) else "not held"


def plain(number: float) -> str:
    """A number as a reader wants it: two or three digits, small ones as powers of ten."""
    if number == 0 or (math.isfinite(number) and 1e-3 <= abs(number) < 1e5):
        return f"{number:.3g}"
    return f"{number:.0e}"
