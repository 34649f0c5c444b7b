"""Seven methods to withdraw patients from a classifier that hospitals trained together, and the cost of each.

All methods have the same four steps. *Identification*: a hospital finds who leaves and sends their number. *Local
adjustment*: hospitals compute on the patients that they hold. *Aggregation*: the server receives and sums the results.
*Global update*: the server computes new weights and sends them out. The target is `retrain`: the weights of a
federation that the withdrawn patients never joined.

**If training ends at the optimum** (one local step per round), withdrawal is a Newton step. Let g and H be gradient and
Hessian of the remaining patients' objective at the old weights w. Then

    delta = -H^-1 g                                                                    (`newton`)

with an error quadratic in delta. At the old optimum the gradients of all patients sum to zero, so g equals minus the
leaving patients' part of that sum, up to scale. With the old Hessian the leaving hospital can compute the step:

    delta = 1/n H_old^-1 sum_leaving grad l_j(w)                                       (`influence`)

**With several local steps** FedAvg's fixed point is not the optimum. There g is not zero even if nobody leaves: the
Newton step moves from FedAvg's fixed point to the pooled optimum, which is not the result of retraining. The retrained
weights solve F(v) = v, with F one round of the *remaining* federation (see `hospitals`). We therefore take a Newton
step on that equation, with J = sum_i n_i/n dphi_i/dw the derivative of the round:

    F(w) + J delta = w + delta,   that is   (I - J) delta = F(w) - w                   (`round_newton`)

Each hospital sends phi_i(w) and its Jacobian, a product of I - rate H_i over its steps. With one local step
I - J = rate H and F(w) - w = -rate g, so the step equals that of `newton`. With more steps it aims at the retrained
weights. Its error is also quadratic, and each further exchange squares it again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from fleke_lib.unlearn.classifier.hospitals import (
    FedAvg,
    Hospital,
    Trained,
    UnlearningRequest,
    Weights,
    accuracy,
    gradient,
    hessian,
    mean,
)

STEPS = ("identification", "local adjustment", "aggregation", "global update")
NUMBER = 8  # bytes of a float64
ANEW = 1_000_003  # added to the seed when a training is repeated


@dataclass(frozen=True)
class Message:
    """A message between two parties in one of the four steps; its size is `numbers` float64s."""

    step: str
    sender: str
    receiver: str
    what: str
    numbers: int

    @property
    def bytes(self) -> int:
        return NUMBER * self.numbers


@dataclass(frozen=True, eq=False)
class Unlearned:
    """The result of a method: new weights, seconds of computation summed over all parties, and messages."""

    method: str
    weights: Weights = field(repr=False)
    seconds: float
    messages: tuple[Message, ...] = field(repr=False)

    @property
    def sent(self) -> int:
        """Bytes of all messages."""
        return sum(message.bytes for message in self.messages)


@dataclass(frozen=True)
class Comparison:
    """An outcome compared with the retrained weights.

    distance: |w - w_retrained|. accuracy: on test patients. agreement: share of test patients with the same label from
    both models. seconds, sent: time and bytes of the method.
    """

    method: str
    distance: float
    accuracy: float
    agreement: float
    seconds: float
    sent: int


def nothing(trained: Trained, request: UnlearningRequest) -> Unlearned:
    """Keep the old weights: the baseline that every method must beat."""
    return _Exchange("nothing", trained, request).end(trained.weights)


def retrain(trained: Trained, request: UnlearningRequest) -> Unlearned:
    """Train again without the leaving patients: the gold standard, at the cost of all rounds.

    Random draws use a new seed: with the same noise, old and new weights together would reveal who left.
    """
    exchange = _Exchange("retrain", trained, request)
    again = trained.recipe.train(exchange.remaining, trained.seed + ANEW)
    exchange.rounds(trained.recipe.rounds)
    return exchange.end(again.weights)


def influence(trained: Trained, request: UnlearningRequest) -> Unlearned:
    """A step with the old Hessian, computed at the leaving hospital: w + 1/n H_old^-1 sum_leaving grad l_j(w).

    Source: Koh and Liang (2017); in a federation, the leaving hospital's contribution is added as a negative update.
    """
    exchange = _Exchange("influence", trained, request)
    weights, lam = trained.weights, trained.recipe.lam
    exchange.up(trained.hospitals, "Hessian", _triangle(weights))
    H = mean(trained.hospitals, [hessian(place, weights, lam) for place in trained.hospitals])
    exchange.down(exchange.leaving, "summed Hessian", _triangle(weights))
    n = sum(map(len, trained.hospitals))
    updates = [-len(left) / n * np.linalg.solve(H, gradient(left, weights, lam)) for left in exchange.leaving]
    exchange.up(exchange.leaving, "update to take back", len(weights))
    return exchange.end(weights - sum(updates))


def newton(trained: Trained, request: UnlearningRequest) -> Unlearned:
    """One Newton step on the remaining patients' objective, assembled from each hospital's gradient and Hessian."""
    exchange = _Exchange("newton", trained, request)
    weights, lam = trained.weights, trained.recipe.lam
    gradients = [gradient(place, weights, lam) for place in exchange.remaining]
    hessians = [hessian(place, weights, lam) for place in exchange.remaining]
    exchange.up(exchange.remaining, "gradient and Hessian", len(weights) + _triangle(weights))
    g, H = mean(exchange.remaining, gradients), mean(exchange.remaining, hessians)
    return exchange.end(weights - np.linalg.solve(H, g))


def round_newton(trained: Trained, request: UnlearningRequest, exchanges: int = 1) -> Unlearned:
    """Newton's method on the fixed-point equation of the remaining federation's round: (I - J) delta = F(w) - w.

    Args:
        exchanges: number of Newton steps.

    Raises:
        ValueError: the model was not trained by FedAvg.
    """
    recipe = _fedavg(trained, "round_newton")
    exchange, weights = _Exchange("round newton", trained, request), trained.weights
    for number in range(exchanges):
        if number:
            exchange.down(exchange.remaining, "weights", len(weights))
        F = mean(exchange.remaining, [recipe.local(place, weights) for place in exchange.remaining])
        J = mean(exchange.remaining, [recipe.jacobian(place, weights) for place in exchange.remaining])
        exchange.up(exchange.remaining, "local weights and Jacobian", len(weights) * (1 + len(weights)))
        weights = weights + np.linalg.solve(np.eye(len(weights)) - J, F - weights)
    return exchange.end(weights)


def gradient_ascent(trained: Trained, request: UnlearningRequest, steps: int = 10, rate: float = 0.3) -> Unlearned:
    """Increase the leaving patients' loss: `steps` times w <- w + rate/n sum_leaving grad l_j(w).

    One step reverses these patients' contribution to one round at the optimum. The right number of steps is unknown:
    few change little, and many give a model that is worse than one that never saw the patients.
    """
    exchange, weights = _Exchange("gradient ascent", trained, request), trained.weights
    n = sum(map(len, trained.hospitals))
    for number in range(steps):
        if number:
            exchange.down(exchange.leaving, "weights", len(weights))
        gradients = [len(left) / n * gradient(left, weights, trained.recipe.lam) for left in exchange.leaving]
        exchange.up(exchange.leaving, "gradient", len(weights))
        weights = weights + rate * sum(gradients)
    return exchange.end(weights)


def calibrated_replay(trained: Trained, request: UnlearningRequest, every: int = 1) -> Unlearned:
    """FedEraser (Liu et al. 2021): replay the stored rounds from the start, with new directions for the updates u_i.

    In each replayed round a remaining hospital takes its local steps from the current weights of the replay, which
    gives a direction c_i. The server keeps the stored length: w <- w + sum_i n_i/n |u_i| c_i / |c_i|.

    There are two differences from the original. It uses the first round's stored updates unchanged; these contain
    patients who leave, so here the first round is calibrated, too. It takes about half of the local steps; here all
    are taken.

    Args:
        every: only each such round was stored and is replayed.

    Raises:
        ValueError: the model was not trained by FedAvg.
    """
    recipe = _fedavg(trained, "calibrated_replay")
    exchange = _Exchange("calibrated replay", trained, request)
    names = [place.name for place in exchange.remaining]
    kept = [i for i, place in enumerate(trained.hospitals) if place.name in names]
    weights = np.zeros_like(trained.weights)
    stored = np.linalg.norm(trained.updates[::every][:, kept], axis=2)
    for lengths in stored:
        directions = np.array([recipe.local(place, weights) - weights for place in exchange.remaining])
        directions *= (lengths / np.maximum(np.linalg.norm(directions, axis=1), np.finfo(float).tiny))[:, None]
        weights = weights + mean(exchange.remaining, directions)
    exchange.rounds(len(stored))
    return exchange.end(weights)


METHODS: dict[str, Callable[[Trained, UnlearningRequest], Unlearned]] = {
    "nothing": nothing,
    "gradient ascent": gradient_ascent,
    "calibrated replay": calibrated_replay,
    "influence": influence,
    "newton": newton,
    "round newton": round_newton,
    "retrain": retrain,
}


def compare(outcome: Unlearned, retrained: Unlearned, test: Hospital) -> Comparison:
    """Compare an outcome with the retrained weights."""
    same = (test.features @ outcome.weights > 0) == (test.features @ retrained.weights > 0)
    return Comparison(
        outcome.method,
        distance=float(np.linalg.norm(outcome.weights - retrained.weights)),
        accuracy=accuracy(outcome.weights, test),
        agreement=float(same.mean()),
        seconds=outcome.seconds,
        sent=outcome.sent,
    )


class _Exchange:
    """The clock and the list of messages of a running method."""

    def __init__(self, method: str, trained: Trained, request: UnlearningRequest) -> None:
        self.method, self.started, self.messages = method, perf_counter(), []
        self.remaining, self.leaving = request.remaining(trained.hospitals), request.leaving(trained.hospitals)
        for left in self.leaving:
            self._add(STEPS[0], left.name, "server", "how many leave", 1)

    def down(self, receivers: Sequence[Hospital], what: str, numbers: int) -> None:
        for place in receivers:
            self._add(STEPS[1], "server", place.name, what, numbers)

    def up(self, senders: Sequence[Hospital], what: str, numbers: int) -> None:
        for place in senders:
            self._add(STEPS[2], place.name, "server", what, numbers)

    def rounds(self, count: int) -> None:
        """Record rounds of training as two messages per hospital: all weights received, all updates sent."""
        numbers = count * self.remaining[0].features.shape[1]
        self.down(self.remaining, f"weights, {count} times", numbers)
        self.up(self.remaining, f"updates, {count} times", numbers)

    def end(self, weights: Weights) -> Unlearned:
        seconds = perf_counter() - self.started
        if self.method != "nothing":
            for place in self.remaining:
                self._add(STEPS[3], "server", place.name, "new weights", len(weights))
        return Unlearned(self.method, weights, seconds, tuple(self.messages))

    def _add(self, step: str, sender: str, receiver: str, what: str, numbers: int) -> None:
        self.messages.append(Message(step, sender, receiver, what, numbers))


def _fedavg(trained: Trained, method: str) -> FedAvg:
    if not isinstance(trained.recipe, FedAvg):
        kind = type(trained.recipe).__name__
        raise ValueError(f"{method} needs a model trained in rounds, this one was by {kind}: train it with FedAvg.")
    return trained.recipe


def _triangle(weights: Weights) -> int:
    """Number of independent entries of a symmetric matrix with this many rows."""
    return len(weights) * (len(weights) + 1) // 2
