"""Was this patient in the training? A likelihood-ratio attack with shadow models (Carlini et al. 2022), as evidence.

The attacker sees a model's weights and knows a patient's row and label. It trains shadow models on random halves of
similar patients, so that each patient is in about half of them. A model's confidence in patient j is scaled to

    c_j = log(p / (1 - p)) = +-(x_j w),   with p the probability of the true label

and over the shadow models it is about normal: N(mu_in, s_in) where j was in, N(mu_out, s_out) where not. The score of
a model that says c is the log of the two densities' ratio. For a group the scores of its patients add up.

The audit asks one question: **can withdrawn patients be told from patients that were never there?** A victim federation
is trained on a random half of the table. Some of its patients withdraw; as many are drawn from the other half. The
AUC is the chance that the first group scores higher than the second. Both groups are drawn alike, and after retraining
neither is in, so that the AUC is 0.5 but for the draw. Above it something was left behind. Below it something was taken
too much, which also tells who left.

A logistic regression of 31 weights on some 280 patients hardly remembers anybody, so one model says little: the audit
repeats over many victims, with a new half, new hospitals and new withdrawals each time, and draws its intervals from
victims. For the same reason it trains by the exact optimum where nothing else is asked for.
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

Choice = Callable[[tuple[Hospital, ...], int], UnlearningRequest]


@dataclass(frozen=True, eq=False)
class Shadows:
    """What the attacker learned from its own models: of each patient, the confidence's mean and deviation."""

    inside: tuple[Float[np.ndarray, " patients"], Float[np.ndarray, " patients"]] = field(repr=False)
    outside: tuple[Float[np.ndarray, " patients"], Float[np.ndarray, " patients"]] = field(repr=False)
    models: int

    def scores(self, confidences: Float[np.ndarray, " patients"]) -> Float[np.ndarray, " patients"]:
        """log N(c; mu_in, s_in) - log N(c; mu_out, s_out) of each patient."""
        return norm.logpdf(confidences, *self.inside) - norm.logpdf(confidences, *self.outside)


@dataclass(frozen=True, eq=False)
class MembershipAudit:
    """Scores of withdrawn groups and of groups that were never there, and what tells them apart.

    auc: the chance that a withdrawn group scores higher. interval: 95%, by bootstrap over victims.
    """

    withdrawn: Float[np.ndarray, "victims groups"] = field(repr=False)
    never: Float[np.ndarray, "victims groups"] = field(repr=False)
    auc: float
    interval: tuple[float, float]

    @property
    def at_chance(self) -> bool:
        """Whether the interval holds 0.5."""
        return self.interval[0] <= 0.5 <= self.interval[1]


def population() -> Hospital:
    """All 569 patients of the breast-cancer table, scaled by their own mean and deviation."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return Hospital("everybody", scaled(table.data, table.data), table.target.astype(float))


def shadows(everybody: Hospital, recipe: TrainingRecipe, models: int = 256, seed: int = 0) -> Shadows:
    """Train shadow models, each on a random half dealt to hospitals, and fit the two normal distributions.

    Raises:
        ValueError: so few models that a patient is in, or out of, fewer than two of them.
    """
    rng, n = np.random.default_rng([seed, 1]), len(everybody)
    inside = np.zeros((models, n), bool)
    values = np.empty((models, n))
    for row in range(models):
        members = rng.permutation(n)[: n // 2]
        inside[row, members] = True
        values[row] = confidence(recipe.train(deal(everybody.pick(members)), seed=row).weights, everybody)
    if min(inside.sum(0).min(), (~inside).sum(0).min()) < 2:
        raise ValueError(f"with {models} shadow models a patient is in fewer than two, or out: give 32 or more.")
    return Shadows(_fit(values, inside), _fit(values, ~inside), models)


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
    """The attack on many victims, after each method of withdrawal; the same victims and groups for all.

    Args:
        recipe: how victims are trained; the shadow models' too, or the attack is weaker than it could be.
        choice: makes a request from a victim's hospitals and a seed: `some(20)` or `whole("B")`.
        groups: withdrawals from each victim, each from the whole model; more of them sharpen a faint signal.
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
    """Each victim loses `count` patients at random."""
    return lambda hospitals, seed: some_patients(hospitals, count, seed)


def whole(name: str) -> Choice:
    """Each victim loses this hospital, whose patients are others in each."""
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
    """The AUC over all pairs of two sets of scores, with its 95% bootstrap interval over victims, the rows of both."""
    n = len(withdrawn)
    wins = np.array([_wins(row, never) for row in withdrawn])
    counts = resampling.counts(n, draws, [seed, 3])
    interval = resampling.interval(((counts @ wins) * counts).sum(1) / n**2)
    return MembershipAudit(withdrawn, never, float(wins.mean()), interval)


def _wins(
    one: Float[np.ndarray, " groups"], never: Float[np.ndarray, "victims groups"]
) -> Float[np.ndarray, " victims"]:
    """How often one victim's withdrawn groups score higher than each victim's others; a tie is half a win."""
    apart = one[:, None, None] - never
    return ((apart > 0) + 0.5 * (apart == 0)).mean((0, 2))


def _places(hospitals: tuple[Hospital, ...], request: UnlearningRequest) -> Int[np.ndarray, " leaving"]:
    """Where the leaving patients stand when the hospitals' patients are in one line."""
    starts = np.cumsum([0, *map(len, hospitals)])[:-1]
    return np.concatenate([start + np.array(rows, int) for start, rows in zip(starts, request.rows, strict=True)])


def _fit(
    values: Float[np.ndarray, "models patients"], chosen: Bool[np.ndarray, "models patients"]
) -> tuple[Float[np.ndarray, " patients"], Float[np.ndarray, " patients"]]:
    """Each patient's mean and deviation over the chosen models."""
    found = np.ma.masked_array(values, ~chosen)
    return found.mean(0).filled(np.nan), found.std(0, ddof=1).filled(np.nan)
