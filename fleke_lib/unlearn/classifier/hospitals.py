"""Hospitals that train one classifier by FedAvg: the patients, the loss, and one round.

Hospital i holds n_i of n patients, rows x with a label y of 0 or 1. It fits a logistic regression on

    l_i(w) = 1/n_i sum_j [log(1 + exp(x_j w)) - y_j x_j w] + lam/2 |w|^2

and the pooled objective is the mean over patients, f(w) = sum_i n_i/n l_i(w). In a round of FedAvg the server sends w
to all hospitals, each takes E gradient steps, and the server averages the results:

    phi_i(w) = w after E steps of w <- w - rate grad l_i(w),        F(w) = sum_i n_i/n phi_i(w)

With one local step F is a gradient step on f, and training ends at the optimum of f. With more steps each hospital
drifts towards its own optimum, and training ends where the drifts balance: at the fixed point of F, which is not the
optimum of f.

The data is the breast-cancer table that ships with scikit-learn: 569 patients, 30 features of cell nuclei, benign (1)
or malignant (0). Features are scaled by mean and standard deviation over all training patients. This scaling is a leak:
two sums over patients are shared before training, and a withdrawn patient stays in them unless they are computed again.
We keep the scaling fixed, so weights before and after a withdrawal are in the same units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from jaxtyping import Float
from scipy.special import expit

SHARES = (0.36, 0.26, 0.18, 0.12, 0.08)  # of the training patients, by hospital
TEST = 0.3  # share of patients that no hospital trains on

Weights = Float[np.ndarray, " d"]
Square = Float[np.ndarray, "d d"]


@dataclass(frozen=True, eq=False)
class Hospital:
    """The patients of one hospital: per patient a row of features, the first of which is 1, and a label of 0 or 1."""

    name: str
    features: Float[np.ndarray, "patients d"] = field(repr=False)
    labels: Float[np.ndarray, " patients"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, rows: Sequence[int]) -> "Hospital":
        """The hospital with only these patients."""
        rows = np.asarray(rows, int)
        return replace(self, features=self.features[rows], labels=self.labels[rows])

    def without(self, rows: Sequence[int]) -> "Hospital":
        """The hospital without these patients."""
        return self.pick(np.setdiff1d(np.arange(len(self)), np.asarray(rows, int)))


@dataclass(frozen=True, eq=False)
class Study:
    """The hospitals of a federation, and patients that none of them trained on."""

    hospitals: tuple[Hospital, ...]
    test: Hospital

    def __repr__(self) -> str:
        sizes = ", ".join(f"{hospital.name} {len(hospital)}" for hospital in self.hospitals)
        return f"Study({sum(map(len, self.hospitals))} patients: {sizes}; {len(self.test)} for the test)"


@dataclass(frozen=True)
class UnlearningRequest:
    """Which patients leave: row numbers for each hospital, in the order of the federation's hospitals."""

    name: str
    rows: tuple[tuple[int, ...], ...] = field(repr=False)

    def remaining(self, hospitals: Sequence[Hospital]) -> tuple[Hospital, ...]:
        """The hospitals without the leaving patients. Raises ValueError if no patient is left."""
        kept = [hospital.without(rows) for hospital, rows in zip(hospitals, self.rows, strict=True)]
        if not any(map(len, kept)):
            raise ValueError(f"the request {self.name!r} leaves no patient: withdraw fewer, or delete the model.")
        return tuple(hospital for hospital in kept if len(hospital))

    def leaving(self, hospitals: Sequence[Hospital]) -> tuple[Hospital, ...]:
        """The leaving patients, by hospital."""
        left = [hospital.pick(rows) for hospital, rows in zip(hospitals, self.rows, strict=True)]
        return tuple(hospital for hospital in left if len(hospital))


class TrainingRecipe(Protocol):
    """A way of training in `rounds` rounds; `train` gives the same weights for the same hospitals and seed."""

    lam: float
    rounds: int

    def train(self, hospitals: Sequence[Hospital], seed: int = 0) -> "Trained": ...


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model, and the updates that the server has stored.

    updates: what each hospital sent in each round, `phi_i(w) - w`; empty if nothing was stored.
    seed: of the random draws during training.
    """

    weights: Weights = field(repr=False)
    hospitals: tuple[Hospital, ...]
    recipe: TrainingRecipe
    updates: Float[np.ndarray, "rounds hospitals d"] = field(repr=False)
    seed: int = 0


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging from zero weights; with these defaults it converges to about 1e-12.

    local_steps: E, gradient steps of each hospital per round. rate: their step size. lam: weight of |w|^2 / 2.
    """

    rounds: int = 1000
    local_steps: int = 1
    rate: float = 0.3
    lam: float = 0.1

    def train(self, hospitals: Sequence[Hospital], seed: int = 0) -> Trained:
        """Train all rounds with all hospitals, and store every update. Nothing is random: `seed` has no effect."""
        check(hospitals)
        weights, updates = np.zeros(hospitals[0].features.shape[1]), []
        for _ in range(self.rounds):
            updates.append([self.local(hospital, weights) - weights for hospital in hospitals])
            weights = weights + mean(hospitals, updates[-1])
        return Trained(weights, tuple(hospitals), self, np.array(updates), seed)

    def local(self, hospital: Hospital, weights: Weights) -> Weights:
        """phi_i(w): the weights after the hospital's gradient steps."""
        for _ in range(self.local_steps):
            weights = weights - self.rate * gradient(hospital, weights, self.lam)
        return weights

    def jacobian(self, hospital: Hospital, weights: Weights) -> Square:
        """d phi_i / d w, `(d, d)`: the product of I - rate H_i over the local steps, H_i at each step's weights."""
        product = np.eye(len(weights))
        for _ in range(self.local_steps):
            product = product - self.rate * hessian(hospital, weights, self.lam) @ product
            weights = weights - self.rate * gradient(hospital, weights, self.lam)
        return product


@dataclass(frozen=True)
class Exact:
    """The optimum of the pooled objective by Newton's method, in milliseconds.

    It is the limit of FedAvg with one local step.
    """

    lam: float = 0.1
    rounds = 0  # not federated: nothing is sent

    def train(self, hospitals: Sequence[Hospital], seed: int = 0) -> Trained:
        """Newton steps, halved until they lower f; `seed` has no effect."""
        check(hospitals)
        pooled = pool(hospitals)
        weights = np.zeros(pooled.features.shape[1])
        for _ in range(100):
            step = np.linalg.solve(hessian(pooled, weights, self.lam), gradient(pooled, weights, self.lam))
            if np.linalg.norm(step) < 1e-12 * (1 + np.linalg.norm(weights)):
                break
            before, size = loss(pooled, weights, self.lam), 1.0
            while size > 1e-6 and loss(pooled, weights - size * step, self.lam) > before:
                size /= 2
            weights = weights - size * step
        return Trained(weights, tuple(hospitals), self, np.zeros((0, len(hospitals), len(weights))), seed)


def breast_cancer(seed: int = 0) -> Study:
    """The table, shuffled by the seed: 30% held out, the rest dealt unevenly to five hospitals."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    order = np.random.default_rng(seed).permutation(len(table.target))
    held_out, training = np.split(order, [round(TEST * len(order))])
    features = scaled(table.data, table.data[training])
    everybody = Hospital("everybody", features, table.target.astype(float))
    return Study(deal(everybody.pick(training)), replace(everybody.pick(held_out), name="test"))


def deal(patients: Hospital) -> tuple[Hospital, ...]:
    """Deal these patients, in their order, to five hospitals of different sizes, A to E."""
    ends = np.round(np.cumsum(SHARES)[:-1] * len(patients)).astype(int)
    parts = np.split(np.arange(len(patients)), ends)
    return tuple(replace(patients.pick(rows), name=name) for name, rows in zip("ABCDE", parts, strict=True))


def some_patients(hospitals: Sequence[Hospital], count: int, seed: int = 0) -> UnlearningRequest:
    """A request of `count` patients, drawn from all hospitals by the seed.

    Raises:
        ValueError: nobody or everybody would leave.
    """
    total = sum(map(len, hospitals))
    if not 0 < count < total:
        raise ValueError(f"{count} patients cannot leave a federation of {total}: give from 1 to {total - 1}.")
    owner = np.repeat(np.arange(len(hospitals)), [len(hospital) for hospital in hospitals])
    row = np.concatenate([np.arange(len(hospital)) for hospital in hospitals])
    drawn = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    rows = tuple(tuple(row[drawn[owner[drawn] == i]].tolist()) for i in range(len(hospitals)))
    return UnlearningRequest("one patient" if count == 1 else f"{count} patients", rows)


def whole_hospital(hospitals: Sequence[Hospital], name: str) -> UnlearningRequest:
    """A request of a whole hospital. Raises ValueError if there is none of this name."""
    if name not in (names := [place.name for place in hospitals]):
        raise ValueError(f"there is no hospital {name!r}: name one of {', '.join(names)}.")
    return UnlearningRequest(
        f"hospital {name}", tuple(tuple(range(len(h))) if h.name == name else () for h in hospitals)
    )


def scaled(
    table: Float[np.ndarray, "rows features"], reference: Float[np.ndarray, "others features"]
) -> Float[np.ndarray, "rows d"]:
    """Features standardised by the reference's mean and standard deviation, after a first column of ones."""
    return np.column_stack([np.ones(len(table)), (table - reference.mean(0)) / reference.std(0)])


def loss(hospital: Hospital, weights: Weights, lam: float) -> float:
    """l_i(w)."""
    scores = hospital.features @ weights
    return float(np.mean(np.logaddexp(0, scores) - hospital.labels * scores) + lam / 2 * weights @ weights)


def gradient(hospital: Hospital, weights: Weights, lam: float) -> Weights:
    """grad l_i(w) = 1/n_i X^T (p - y) + lam w, with p the predicted probabilities."""
    errors = expit(hospital.features @ weights) - hospital.labels
    return errors @ hospital.features / len(hospital) + lam * weights


def hessian(hospital: Hospital, weights: Weights, lam: float) -> Square:
    """H_i(w) = 1/n_i X^T diag(p (1 - p)) X + lam I."""
    p = expit(hospital.features @ weights)
    return (hospital.features.T * (p * (1 - p))) @ hospital.features / len(hospital) + lam * np.eye(len(weights))


def mean(hospitals: Sequence[Hospital], values: Sequence[np.ndarray]) -> np.ndarray:
    """sum_i n_i/n v_i: the server's average, weighted by numbers of patients."""
    sizes = np.array([len(hospital) for hospital in hospitals], float)
    return np.tensordot(sizes / sizes.sum(), np.asarray(values), 1)


def pool(hospitals: Sequence[Hospital]) -> Hospital:
    """All patients in one place, which is impossible in a federation; used as a control."""
    features, labels = zip(*((hospital.features, hospital.labels) for hospital in hospitals), strict=True)
    return Hospital("pooled", np.concatenate(features), np.concatenate(labels))


def accuracy(weights: Weights, test: Hospital) -> float:
    """Share of patients whose label is predicted correctly, 0 to 1."""
    return float(np.mean((test.features @ weights > 0) == (test.labels > 0)))


def check(hospitals: Sequence[Hospital]) -> None:
    """Raise ValueError if there is no hospital, or one without patients."""
    if not hospitals or not all(map(len, hospitals)):
        raise ValueError("a federation needs hospitals with patients: leave out those that have none left.")
