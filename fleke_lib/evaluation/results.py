"""The result of a measurement: one value per fact and metric, their means, and bootstrap intervals of the means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Self, overload

import numpy as np
from jaxtyping import Float

from fleke_lib.evaluation import resampling
from fleke_lib.evaluation.harm import Harm
from fleke_lib.facts.fact import Fact, check_list

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


class Metric:
    """In an `Evaluation`: the mean over facts of the metric that it is named after."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.__doc__ = f"{METRICS[name]}: mean over facts."

    @overload
    def __get__(self, evaluation: None, owner: type) -> Self: ...
    @overload
    def __get__(self, evaluation: "Evaluation", owner: type) -> float: ...
    def __get__(self, evaluation, owner):
        return self if evaluation is None else float(evaluation._means(self.name)[0])

    def __set__(self, evaluation: "Evaluation", value: float) -> None:
        raise AttributeError(f"{self.name} is computed from the values per fact: change those.")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The values of metrics on some facts. `evaluation.efficacy` and so on are means over facts.

    per_fact: `{metric: (facts,)}`; nan for a fact that lacks what the metric needs, such as paraphrases.
    texts: the texts that the model generated for each fact, if the measurement generates any.
    harm: what the model's edit changed outside the facts, if it was measured.
    """

    facts: tuple[Fact, ...] = field(repr=False)
    per_fact: Mapping[str, Array]
    texts: tuple[tuple[str, ...], ...] = ()
    harm: Harm | None = None

    score, efficacy, paraphrase, specificity = Metric(), Metric(), Metric(), Metric()
    efficacy_magnitude, paraphrase_magnitude, specificity_magnitude = Metric(), Metric(), Metric()
    probability, top1 = Metric(), Metric()
    edit_accuracy, paraphrase_accuracy, neighbour_accuracy = Metric(), Metric(), Metric()
    entropy, consistency = Metric(), Metric()
    says, mentions = Metric(), Metric()

    def interval(self, metric: str, level: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap interval of the mean: the facts are drawn again with replacement.

        The edit itself is not repeated, and the facts are assumed to be independent: for facts that share a relation
        the interval is too narrow.

        Raises:
            ValueError: the metric was not measured.
        """
        return resampling.interval(self._means(metric, resampling.counts(len(self.facts), samples, seed)), level)

    def subset(self, facts: Sequence[int]) -> "Evaluation":
        """The same measurements for some of the facts, given by indices or by a Boolean mask; harm is of the model."""
        index = np.arange(len(self.facts))[np.asarray(facts, dtype=None if len(facts) else int)]
        return Evaluation(
            checked([self.facts[i] for i in index]),
            {name: values[index] for name, values in self.per_fact.items()},
            tuple(self.texts[i] for i in index) if self.texts else (),
            self.harm,
        )

    def rows(self) -> list[tuple[str, float, float, float]]:
        """(metric, mean, low, high) of each measured metric, with 95% intervals."""
        measured = [name for name in METRICS if set(_parts(name)) <= self.per_fact.keys()]
        known = [name for name in measured if not np.isnan(self._means(name)[0])]
        return [(name, float(self._means(name)[0]), *self.interval(name)) for name in known]

    def to_dict(self) -> dict:
        """Numbers for a JSON file: means with intervals, values per fact (None instead of nan), and any harm."""
        means = {name: {"mean": mean, "low": low, "high": high} for name, mean, low, high in self.rows()}
        values = {n: [None if np.isnan(v) else float(v) for v in column] for n, column in self.per_fact.items()}
        harm = {} if self.harm is None else {"harm": self.harm.to_dict()}
        return {"facts": len(self.facts), "metrics": means, "per_fact": values, **harm}

    def _means(self, metric: str, counts: Float[np.ndarray, "samples facts"] | None = None) -> np.ndarray:
        """Means over facts, which count as often as `counts` says (default: once each); nan if no fact has a value."""
        if missing := [name for name in _parts(metric) if name not in self.per_fact]:
            raise ValueError(f"{', '.join(missing)} was not measured: this evaluation has {', '.join(self.per_fact)}.")
        counts = np.ones((1, len(self.facts))) if counts is None else counts
        means = [resampling.means(self.per_fact[name], counts) for name in _parts(metric)]
        return harmonic_mean(*means) if metric == "score" else means[0]

    def __repr__(self) -> str:
        lines = [f"{name:<22}{mean:7.3f}  [{low:.3f}, {high:.3f}]" for name, mean, low, high in self.rows()]
        harm = [] if self.harm is None else [repr(self.harm)]
        return "\n".join(
            [f"Evaluation of {len(self.facts)} facts (mean, 95% bootstrap interval over facts)", *lines, *harm]
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td>{mean:.3f}</td><td>{low:.3f} to {high:.3f}</td>"
            f"<td>{escape(METRICS[name])}</td></tr>"
            for name, mean, low, high in self.rows()
        )
        head = "<tr><th>metric</th><th>mean</th><th>95% interval</th><th>meaning</th></tr>"
        table = f"<table><caption>{len(self.facts)} facts; bootstrap over facts</caption>{head}{rows}</table>"
        return table if self.harm is None else table + self.harm._repr_html_()


def difference(
    one: Evaluation, other: Evaluation, metric: str, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The mean of `one` minus the mean of `other` on the same facts, and the ends of its paired bootstrap interval.

    Raises:
        ValueError: the evaluations have different facts, or the metric was not measured in one of them.
    """
    if one.facts != other.facts:
        raise ValueError("the two evaluations are not of the same facts: a paired difference needs the same, in order.")
    counts = resampling.counts(len(one.facts), samples, seed)
    change = one._means(metric, counts) - other._means(metric, counts)
    return float(one._means(metric)[0] - other._means(metric)[0]), *resampling.interval(change, level)


def harmonic_mean(*values: np.ndarray | float) -> np.ndarray:
    """`n / (1/a + 1/b + ...)` of n nonnegative numbers or arrays of one shape; 0 where any is 0."""
    stacked = np.stack([np.asarray(value, dtype=float) for value in values])
    with np.errstate(divide="ignore"):
        return len(stacked) / (1 / stacked).sum(0)


def checked(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """The facts as a tuple. Raises ValueError if there are none."""
    check_list(facts)
    if not len(facts):
        raise ValueError("there are no facts to measure: give at least one.")
    return tuple(facts)


def best_of(scores: Mapping[float, float]) -> float:
    """The setting with the greatest score; of equally good ones the first.

    Raises:
        ValueError: a score is nan, since then no setting is the best.
    """
    if any(np.isnan(score) for score in scores.values()):
        raise ValueError("these facts have no score: give some that have paraphrases and neighbours.")
    return max(scores, key=scores.__getitem__)


def _parts(metric: str) -> tuple[str, ...]:
    """The columns that a metric is computed from."""
    return THREE if metric == "score" else (metric,)
