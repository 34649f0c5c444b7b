"""The percentile bootstrap: how far a mean moves when the facts are drawn again with replacement.

"Fact" here means any unit that is drawn independently: a fact, a control, a victim or a seed. Source: Efron and
Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Estimate(NamedTuple):
    """A mean over facts and the ends of its interval: three numbers, or three arrays of one shape."""

    mean: Any
    low: Any
    high: Any


def bootstrap(values: Sequence[float], level: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of plain numbers, such as one number per seed."""
    column = np.asarray(values, dtype=float)
    return interval(counts(len(column), samples, seed) @ column / len(column), level)


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
