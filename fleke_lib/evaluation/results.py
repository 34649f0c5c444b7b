"""What a measurement found: a number per fact, their mean, and how sure of the mean one can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from jaxtyping import Float

from fleke_lib.facts.fact import Fact

METRICS = {
    "score": "harmonic mean of efficacy, paraphrase and specificity",
    "efficacy": "new target likelier than the true one at the question",
    "paraphrase": "the same at paraphrases",
    "specificity": "own answer likelier than the new target at neighbours",
    "efficacy_magnitude": "P(new) - P(true) at the question",
    "paraphrase_magnitude": "P(new) - P(true) at paraphrases",
    "specificity_magnitude": "P(own answer) - P(new) at neighbours",
    "probability": "P(new) at the question",
    "top1": "every token of the new target is the argmax at the question",
    "edit_accuracy": "share of the new target's tokens that are the argmax at the question",
    "paraphrase_accuracy": "the same at paraphrases",
    "neighbour_accuracy": "share of the own answer's tokens that are the argmax at neighbours",
    "entropy": "2- and 3-gram entropy of sampled text, in bits",
    "consistency": "TF-IDF cosine of sampled text with references of the new target",
    "says": "freely decoded text begins with the new target",
    "mentions": "freely decoded text contains the new target",
}
THREE = ("efficacy", "paraphrase", "specificity")
Array = Float[np.ndarray, " facts"]


def _metric(name: str) -> property:
    return property(lambda self: float(self._means(name)[0]), doc=f"{METRICS[name]}: mean over facts.")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured on some facts: `per_fact[metric]` is nan where a fact has nothing to measure it on.

    `evaluation.efficacy` and so on are means over facts; `texts` holds what the model wrote for each fact, if it wrote.
    """

    facts: tuple[Fact, ...] = field(repr=False)
    per_fact: Mapping[str, Array]
    texts: tuple[tuple[str, ...], ...] = ()

    score, efficacy, paraphrase, specificity = map(_metric, ("score", *THREE))
    efficacy_magnitude = _metric("efficacy_magnitude")
    paraphrase_magnitude = _metric("paraphrase_magnitude")
    specificity_magnitude = _metric("specificity_magnitude")
    probability, top1 = _metric("probability"), _metric("top1")
    edit_accuracy = _metric("edit_accuracy")
    paraphrase_accuracy = _metric("paraphrase_accuracy")
    neighbour_accuracy = _metric("neighbour_accuracy")
    entropy, consistency = _metric("entropy"), _metric("consistency")
    says, mentions = _metric("says"), _metric("mentions")

    def interval(self, metric: str, level: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap over facts: how far the mean moves when the facts are drawn again with replacement.

        The edit itself is not repeated, and facts count as independent: where they share a relation, it is too narrow.
        """
        return _quantiles(self._means(metric, _draws(len(self.facts), samples, seed)), level)

    def subset(self, facts: Sequence[int]) -> "Evaluation":
        """The same measurements on some of the facts, by index or by a mask."""
        index = np.arange(len(self.facts))[np.asarray(facts, dtype=None if len(facts) else int)]
        return Evaluation(
            checked([self.facts[i] for i in index]),
            {name: values[index] for name, values in self.per_fact.items()},
            tuple(self.texts[i] for i in index) if self.texts else (),
        )

    def rows(self) -> list[tuple[str, float, float, float]]:
        """(metric, mean, low, high) of what was measured, with 95% intervals."""
        measured = [name for name in METRICS if set(_parts(name)) <= self.per_fact.keys()]
        known = [name for name in measured if not np.isnan(self._means(name)[0])]
        return [(name, float(self._means(name)[0]), *self.interval(name)) for name in known]

    def to_dict(self) -> dict:
        """Numbers for a JSON file: means with intervals, and the values per fact (None where there is none)."""
        means = {name: {"mean": mean, "low": low, "high": high} for name, mean, low, high in self.rows()}
        values = {n: [None if np.isnan(v) else float(v) for v in column] for n, column in self.per_fact.items()}
        return {"facts": len(self.facts), "metrics": means, "per_fact": values}

    def _means(self, metric: str, counts: Float[np.ndarray, "samples facts"] | None = None) -> np.ndarray:
        """Means over facts, each counted as often as `counts` says (default: once); nan where there is none."""
        if missing := [name for name in _parts(metric) if name not in self.per_fact]:
            raise ValueError(f"{', '.join(missing)} was not measured: this evaluation has {', '.join(self.per_fact)}.")
        counts = np.ones((1, len(self.facts))) if counts is None else counts
        with np.errstate(invalid="ignore"):
            columns = [self.per_fact[name] for name in _parts(metric)]
            means = [counts @ np.nan_to_num(column) / (counts @ ~np.isnan(column)) for column in columns]
        return harmonic_mean(*means) if metric == "score" else means[0]

    def __repr__(self) -> str:
        lines = [f"{name:<22}{mean:7.3f}  [{low:.3f}, {high:.3f}]" for name, mean, low, high in self.rows()]
        return "\n".join([f"Evaluation of {len(self.facts)} facts (mean, 95% bootstrap interval over facts)", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td>{mean:.3f}</td><td>{low:.3f} to {high:.3f}</td>"
            f"<td>{escape(METRICS[name])}</td></tr>"
            for name, mean, low, high in self.rows()
        )
        head = "<tr><th>metric</th><th>mean</th><th>95% interval</th><th>meaning</th></tr>"
        return f"<table><caption>{len(self.facts)} facts; bootstrap over facts</caption>{head}{rows}</table>"


def difference(
    one: Evaluation, other: Evaluation, metric: str, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """`one`'s mean less `other`'s on the same facts, with the ends of its paired bootstrap interval."""
    if one.facts != other.facts:
        raise ValueError("the two evaluations are not of the same facts: a paired difference needs the same, in order.")
    draws = _draws(len(one.facts), samples, seed)
    change = one._means(metric, draws) - other._means(metric, draws)
    return float(one._means(metric)[0] - other._means(metric)[0]), *_quantiles(change, level)


def bootstrap(values: Sequence[float], level: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of plain numbers, such as one per seed."""
    column = np.asarray(values, dtype=float)
    return _quantiles(_draws(len(column), samples, seed) @ column / len(column), level)


def harmonic_mean(*values: np.ndarray | float) -> np.ndarray:
    """`n / (1/a + 1/b + ...)` of values that are not negative; 0 where any is 0."""
    stacked = np.stack([np.asarray(value, dtype=float) for value in values])
    with np.errstate(divide="ignore"):
        return len(stacked) / (1 / stacked).sum(0)


def checked(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """The facts as a tuple. Raises ValueError where there are none."""
    if not len(facts):
        raise ValueError("there are no facts to measure: give at least one.")
    return tuple(facts)


def _parts(metric: str) -> tuple[str, ...]:
    """The columns that a metric is computed from."""
    return THREE if metric == "score" else (metric,)


def _draws(facts: int, samples: int, seed: int) -> Float[np.ndarray, "samples facts"]:
    """How often each fact is drawn in each bootstrap sample."""
    return np.random.default_rng(seed).multinomial(facts, np.full(facts, 1 / facts), size=samples).astype(float)


def _quantiles(values: np.ndarray, level: float) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
