"""Intervals of means. The percentile bootstrap: how far a mean moves when the facts are drawn again with replacement.

"Fact" here means any unit that is drawn independently: a fact, a control, a victim or a seed. Source: Efron and
Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student


class Estimate(NamedTuple):
    """A mean over facts and the ends of its interval: three numbers, or three arrays of one shape."""

    mean: Any
    low: Any
    high: Any


def bootstrap(values: Sequence[float], level: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of plain numbers, such as one number per seed."""
    column = np.asarray(values, dtype=float)
    return interval(counts(len(column), samples, seed) @ column / len(column), level)


def student_interval(values: Sequence[float], level: float = 0.9) -> tuple[float, float]:
    """Student's t interval of the mean; infinite for one value.

    It becomes wider with fewer values, also with very few, where a bootstrap becomes too narrow. Two means are
    equivalent within a margin, at a significance level of 5%, if the 90% interval of their difference lies within the
    margin (two one-sided tests, TOST: Schuirmann 1987, doi 10.1007/BF01068419).
    """
    column = np.asarray(values, dtype=float)
    if len(column) < 2:
        return -np.inf, np.inf
    half = student.ppf((1 + level) / 2, len(column) - 1) * column.std(ddof=1) / np.sqrt(len(column))
    return float(column.mean() - half), float(column.mean() + half)


def counts(
    facts: int, samples: int, seed: int | Sequence[int] | np.random.Generator = 0
) -> Float[np.ndarray, "samples facts"]:
    """How often each bootstrap sample contains each fact; every row sums to `facts`."""
    return np.random.default_rng(seed).multinomial(facts, np.full(facts, 1 / facts), size=samples).astype(float)


def means(
    values: Float[np.ndarray, " facts"] | Float[np.ndarray, "facts numbers"], counts: Float[np.ndarray, "samples facts"]
) -> Float[np.ndarray, " samples"] | Float[np.ndarray, "samples numbers"]:
    """The mean of each sample over its facts that have a value (not nan); nan if none of its facts has one."""
    with np.errstate(invalid="ignore"):
        return counts @ np.nan_to_num(values) / (counts @ ~np.isnan(values))


def interval(values: Float[np.ndarray, " samples"], level: float = 0.95) -> tuple[float, float]:
    """The central interval that contains the share `level` of the samples, nan left out; (nan, nan) if all are nan."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
