"""Differential privacy as the neighbouring idea: train so that no single patient matters much, then see what is left.

One round, one local step. Each patient's gradient is clipped to length c, each hospital adds its clipped gradients up
and adds its share of the noise, and the server, which sees only the sum over hospitals, takes a step:

    w <- (1 - rate lam) w - rate/n [ sum_j clip(grad_j, c) + N(0, (z c)^2 I) ]

The protected unit is **one patient**: adding or removing one moves the sum by at most c, and n is a public number of
the plan, not the count of the day. T such rounds are T Gaussian mechanisms with noise multiplier z, which compose to
one with mu = sqrt(T)/z. The accountant (Renyi orders, from the dp-accounting library) turns that into epsilon at a
delta; whoever compares two models, one with the patient and one without, has by the same mu an AUC of at most
Phi(mu / sqrt 2) (Dong, Roth and Su 2022).

What is then left to unlearn? For one patient nothing beyond epsilon: the promise was given in advance, and it holds
without any deletion. It is never zero. A group of k patients moves the sum by k c, so their noise multiplier is z/k,
and the promise to twenty patients, or to a hospital, is soon no promise: they must be withdrawn after all. A Newton
step is the wrong tool. It goes to the remaining patients' optimum, away from the noise that protects those who stay.
What is sound is training again, privately, without the withdrawn; but the old model is out, so those who stay are in
two releases, and their T rounds become 2T.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit
from scipy.stats import norm

from fleke_lib.unlearn.classifier.hospitals import Hospital, Trained, Weights, check

DELTA = 1e-3  # under one in 569 patients; the usual rule is less than 1/n


@dataclass(frozen=True)
class Private:
    """DP-FedAvg for patients. noise: z, the standard deviation in clips. planned: n, fixed before anybody joins."""

    planned: int
    noise: float
    clip: float = 2.0
    rounds: int = 30
    rate: float = 1.0
    lam: float = 0.1

    def train(self, hospitals: Sequence[Hospital], seed: int = 0) -> Trained:
        """All rounds; the noise is drawn from the seed. Nothing but the weights is kept."""
        check(hospitals)
        rng, width = np.random.default_rng([seed, 4]), hospitals[0].features.shape[1]
        weights, share = np.zeros(width), self.noise * self.clip / np.sqrt(len(hospitals))
        for _ in range(self.rounds):
            sums = [
                clipped(hospital, weights, self.clip).sum(0) + share * rng.standard_normal(width)
                for hospital in hospitals
            ]
            weights = (1 - self.rate * self.lam) * weights - self.rate / self.planned * sum(sums)
        return Trained(weights, tuple(hospitals), self, np.zeros((0, len(hospitals), width)), seed)


def clipped(hospital: Hospital, weights: Weights, clip: float) -> Float[np.ndarray, "patients d"]:
    """Each patient's gradient of the log loss, (p - y) x, shortened to `clip` where it is longer."""
    gradients = (expit(hospital.features @ weights) - hospital.labels)[:, None] * hospital.features
    lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
    return gradients * np.minimum(1, clip / np.maximum(lengths, np.finfo(float).tiny))


def epsilon(noise: float, rounds: int, delta: float = DELTA, patients: int = 1) -> float:
    """Epsilon of so many rounds for a group of so many patients, by the Renyi accountant.

    A group of k has k times the sensitivity, so its noise multiplier is noise / k. Infinite without noise.
    """
    if noise < 0 or rounds < 1 or not 0 < delta < 1 or patients < 1:
        raise ValueError(
            f"noise {noise}, rounds {rounds}, delta {delta}, patients {patients}: give noise from 0, delta between 0 "
            "and 1, and one or more rounds and patients."
        )
    if noise == 0:
        return float("inf")
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent, rdp

    accountant = rdp.RdpAccountant()
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(noise / patients), rounds))
    return float(accountant.get_epsilon(delta))


def noise_for(wanted: float, rounds: int, delta: float = DELTA) -> float:
    """The least noise multiplier with which so many rounds stay within an epsilon, to about one part in a thousand."""
    if not wanted > 0:
        raise ValueError(f"epsilon {wanted} cannot be reached: give a number over 0.")
    low, high = 1e-3, 1.0
    while epsilon(high, rounds, delta) > wanted:
        low, high = high, 2 * high
    while high / low > 1.001:
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if epsilon(middle, rounds, delta) > wanted else (low, middle)
    return high


def auc_bound(noise: float, rounds: int, patients: int = 1) -> float:
    """The largest AUC that any membership attack can have on such a group: Phi(mu / sqrt 2), mu = k sqrt(T) / z."""
    return float(norm.cdf(patients * np.sqrt(rounds) / noise / np.sqrt(2)))
