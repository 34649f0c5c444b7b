"""Differentially private training: it limits the influence of each patient in advance, before anybody withdraws.

In each round a hospital takes one local step: it clips each patient's gradient to length c, sums the clipped gradients
and adds its share of the noise. The server sees only the sum over hospitals and takes the step

    w <- (1 - rate lam) w - rate/n [ sum_j clip(grad_j, c) + N(0, (z c)^2 I) ]

The protected unit is **one patient**: adding or removing one changes the sum by at most c. n is a public number, fixed
in advance; it is not the current number of patients. T such rounds are T Gaussian mechanisms with noise multiplier z,
which compose to one with mu = sqrt(T)/z. The accountant (Renyi orders, from the dp-accounting library) converts this
into epsilon at a given delta. By the same mu, an attacker that distinguishes a model with the patient from one without
has an AUC of at most Phi(mu / sqrt 2) (Dong, Roth and Su 2022).

If no patient has a noticeable influence on the model, no patient needs unlearning: the guarantee holds without any
deletion, up to epsilon, which is never zero. But a group of k patients changes the sum by k c, so its noise multiplier
is z/k. For twenty patients, or a hospital, the guarantee is too weak, and they must be withdrawn. A Newton step is the
wrong method: it moves to the optimum of the remaining patients, and so removes the noise that protects them. Retraining
privately without the withdrawn patients is sound. But the old model has been released already, so the remaining
patients are in two releases, and their T rounds become 2T.
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
    """DP-FedAvg with patient-level privacy.

    planned: n, fixed before anybody joins. noise: z, the noise's standard deviation in units of `clip`.
    clip: c, the greatest length of a patient's gradient.
    """

    planned: int
    noise: float
    clip: float = 2.0
    rounds: int = 30
    rate: float = 1.0
    lam: float = 0.1

    def train(self, hospitals: Sequence[Hospital], seed: int = 0) -> Trained:
        """Train all rounds, with noise drawn from the seed. Only the weights are stored."""
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
    """Epsilon at `delta` after `rounds` rounds for a group of `patients` patients, by the Renyi accountant.

    A group of k has k times the sensitivity, so its noise multiplier is noise / k. Infinite without noise.

    Raises:
        ValueError: an argument is out of its range.
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
    """The smallest noise multiplier for which `rounds` rounds stay within epsilon `wanted`; relative error 0.001.

    Raises:
        ValueError: `wanted` is not positive.
    """
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
    """The largest AUC of any membership attack on a group of k patients: Phi(mu / sqrt 2), mu = k sqrt(T) / z."""
    return float(norm.cdf(patients * np.sqrt(rounds) / noise / np.sqrt(2)))
