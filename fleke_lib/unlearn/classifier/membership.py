"""Was this patient in the training data? A likelihood-ratio attack with shadow models (Carlini et al. 2022).

The attacker sees a model's weights and knows a patient's row and label. It trains shadow models on random halves of
similar patients; each patient is in about half of them. A model's confidence in patient j is scaled to

    c_j = log(p / (1 - p)) = +-(x_j w),   with p the probability of the true label

Over the shadow models it is approximately normal: N(mu_in, s_in) if j was in the training data, N(mu_out, s_out) if
not. The score of a model with confidence c is the log of the ratio of the two densities. The score of a group is the
sum over its patients.

The audit asks one question: **can withdrawn patients be distinguished from patients that were never there?** A victim
federation is trained on a random half of the table. Some of its patients withdraw; equally many are drawn from the
other half. The AUC is the probability that the first group scores higher than the second. Both groups are drawn in the
same way, and after retraining neither is in the data, so the expected AUC is 0.5. An AUC above 0.5 is incomplete
unlearning. An AUC below 0.5 is over-unlearning, which also reveals who left.

A logistic regression of 31 weights on about 280 patients memorises little, so one model is weak evidence. The audit
therefore repeats over many victims, each with a new half, new hospitals and new withdrawals, and its bootstrap
resamples victims. To make this fast, lessons train by the exact optimum unless they study another way of training.

"At chance" is an equivalence test: the interval must lie within MARGIN of 0.5. An interval that merely contains 0.5
would be easier to get with fewer victims.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm

from fleke_lib.evaluation import resampling
from fleke_lib.unlearn.classifier.hospitals import (
    Hospital,
    Trained,
    TrainingRecipe,
    UnlearningRequest,
    Weights,
    deal,
    scaled,
    some_patients,
    whole_hospital,
)
from fleke_lib.unlearn.classifier.methods import Unlearned

MARGIN = 0.05  # an attack whose AUC is certainly within this of 0.5 counts as at chance

Choice = Callable[[tuple[Hospital, ...], int], UnlearningRequest]


@dataclass(frozen=True, eq=False)
class Shadows:
    """The attacker's statistics from its shadow models: mean and standard deviation of each patient's confidence.

    inside, outside: over the models with and without the patient in their data.
    """

    inside: tuple[Float[np.ndarray, " patients"], Float[np.ndarray, " patients"]] = field(repr=False)
    outside: tuple[Float[np.ndarray, " patients"], Float[np.ndarray, " patients"]] = field(repr=False)
    models: int

    @classmethod
    def of(cls, values: Float[np.ndarray, "models patients"], inside: Bool[np.ndarray, "models patients"]) -> "Shadows":
        """Fit two normal distributions per patient to the confidences of models, and who was in each one's data.

        Raises:
            ValueError: too few models: a patient is in fewer than two of them, or outside fewer than two.
        """
        if min(inside.sum(0).min(), (~inside).sum(0).min()) < 2:
            raise ValueError(
                f"with {len(values)} shadow models a patient is in fewer than two, or out: give 32 or more."
            )
        return cls(_fit(values, inside), _fit(values, ~inside), len(values))

    def scores(self, confidences: Float[np.ndarray, " patients"]) -> Float[np.ndarray, " patients"]:
        """log N(c; mu_in, s_in) - log N(c; mu_out, s_out) of each patient."""
        return norm.logpdf(confidences, *self.inside) - norm.logpdf(confidences, *self.outside)


@dataclass(frozen=True, eq=False)
class MembershipAudit:
    """Scores of withdrawn groups and of groups that were never there, and how well they are separated.

    auc: the probability that a withdrawn group scores higher. interval: 95%, from a bootstrap over victims.
    """

    withdrawn: Float[np.ndarray, "victims groups"] = field(repr=False)
    never: Float[np.ndarray, "victims groups"] = field(repr=False)
    auc: float
    interval: tuple[float, float]

    @property
    def at_chance(self) -> bool:
        """Whether the AUC is equivalent to 0.5: the interval lies within MARGIN of it. Fewer victims make this harder.

        The interval is first widened by 1 / victims at both ends: one more victim could move the AUC that far, which a
        bootstrap over a handful of victims does not see.
        """
        low, high = self.interval
        return max(0.5 - low, high - 0.5) + 1 / len(self.withdrawn) <= MARGIN


def population() -> Hospital:
    """All 569 patients of the breast-cancer table, scaled by their own mean and standard deviation."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return Hospital("everybody", scaled(table.data, table.data), table.target.astype(float))


def shadows(everybody: Hospital, recipe: TrainingRecipe, models: int = 256, seed: int = 0) -> Shadows:
    """Train shadow models, each on a random half dealt to hospitals, and fit two normal distributions per patient.

    Raises:
        ValueError: too few models: a patient is in fewer than two of them, or outside fewer than two.
    """
    rng, n = np.random.default_rng([seed, 1]), len(everybody)
    inside = np.zeros((models, n), bool)
    values = np.empty((models, n))
    for row in range(models):
        members = rng.permutation(n)[: n // 2]
        inside[row, members] = True
        values[row] = confidence(recipe.train(deal(everybody.pick(members)), seed=row).weights, everybody)
    return Shadows.of(values, inside)


def attack_after(
    everybody: Hospital,
    recipe: TrainingRecipe,
    choice: Choice,
    methods: Mapping[str, Callable[[Trained, UnlearningRequest], Unlearned]],
    attack: Shadows,
    victims: int = 400,
    groups: int = 1,
    seed: int = 0,
) -> dict[str, MembershipAudit]:
    """Attack many victims after each method of withdrawal; all methods see the same victims and groups.

    Args:
        recipe: how victims are trained; shadow models trained in another way give a weaker attack.
        choice: makes a request from a victim's hospitals and a seed: `some(20)` or `whole("B")`.
        methods: by name, from `classifier.methods`.
        attack: from `shadows`.
        groups: withdrawals from each victim, each from its full model; more of them detect a weaker signal.
    """
    rng, n = np.random.default_rng([seed, 2]), len(everybody)
    scores = {method: np.empty((2, victims, groups)) for method in methods}
    for victim in range(victims):
        members, others = np.split(rng.permutation(n), [n // 2])
        trained = recipe.train(deal(everybody.pick(members)), seed=victim)
        for group in range(groups):
            request = choice(trained.hospitals, int(rng.integers(2**31)))
            gone = members[_places(trained.hospitals, request)]
            never = rng.choice(others, len(gone), replace=False)
            for method, withdraw in methods.items():
                found = attack.scores(confidence(withdraw(trained, request).weights, everybody))
                scores[method][:, victim, group] = found[gone].sum(), found[never].sum()
    return {method: auc_over_victims(*found, seed=seed) for method, found in scores.items()}


def some(count: int) -> Choice:
    """A choice by which `count` random patients leave each victim."""
    return lambda hospitals, seed: some_patients(hospitals, count, seed)


def whole(name: str) -> Choice:
    """A choice by which this hospital leaves each victim; its patients differ between victims."""
    return lambda hospitals, seed: whole_hospital(hospitals, name)


def confidence(weights: Weights, everybody: Hospital) -> Float[np.ndarray, " patients"]:
    """The logit of the true label's probability: x w for label 1, -x w for label 0."""
    return (2 * everybody.labels - 1) * (everybody.features @ weights)


def auc_over_victims(
    withdrawn: Float[np.ndarray, "victims groups"],
    never: Float[np.ndarray, "victims groups"],
    draws: int = 1000,
    seed: int = 0,
) -> MembershipAudit:
    """The AUC over all pairs of two sets of scores, with its 95% bootstrap interval over victims (rows of both)."""
    n = len(withdrawn)
    wins = np.array([_wins(row, never) for row in withdrawn])
    counts = resampling.counts(n, draws, [seed, 3])
    interval = resampling.interval(((counts @ wins) * counts).sum(1) / n**2)
    return MembershipAudit(withdrawn, never, float(wins.mean()), interval)


def _wins(
    one: Float[np.ndarray, " groups"], never: Float[np.ndarray, "victims groups"]
) -> Float[np.ndarray, " victims"]:
    """How often one victim's withdrawn groups score higher than each victim's other groups; a tie is half a win."""
    apart = one[:, None, None] - never
    return ((apart > 0) + 0.5 * (apart == 0)).mean((0, 2))


def _places(hospitals: tuple[Hospital, ...], request: UnlearningRequest) -> Int[np.ndarray, " leaving"]:
    """Positions of the leaving patients in the concatenation of the hospitals' patients."""
    starts = np.cumsum([0, *map(len, hospitals)])[:-1]
    return np.concatenate([start + np.array(rows, int) for start, rows in zip(starts, request.rows, strict=True)])


def _fit(
    values: Float[np.ndarray, "models patients"], chosen: Bool[np.ndarray, "models patients"]
) -> tuple[Float[np.ndarray, " patients"], Float[np.ndarray, " patients"]]:
    """Each patient's mean and standard deviation over the chosen models."""
    found = np.ma.masked_array(values, ~chosen)
    return found.mean(0).filled(np.nan), found.std(0, ddof=1).filled(np.nan)
