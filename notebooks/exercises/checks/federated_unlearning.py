"""Checks of the exercises to chapter 06."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from checks.algebra import normal
from checks.verdict import Largest, Right, ask, expect, judge

PATIENTS = torch.tensor([40.0, 10.0, 25.0, 5.0], dtype=torch.float64)
STAYS = torch.tensor([True, False, True, True])
RATE = 0.1


class _Hospitals:
    """Four hospitals with quadratic objectives (w - centre) H (w - centre) / 2, for which one step is exact."""

    def __init__(self, d: int = 6) -> None:
        factors = normal(4, 3 * d, d, seed=0)
        self.hessians = factors.mT @ factors / (3 * d) + 0.2 * torch.eye(d, dtype=torch.float64)
        self.other = normal(4, 3 * d, d, seed=1)
        self.other = self.other.mT @ self.other / (3 * d) + 0.2 * torch.eye(d, dtype=torch.float64)
        self.centres = normal(4, d, seed=2)
        self.w = normal(d, seed=3)

    @property
    def gradients(self) -> Float[Tensor, "hospitals d"]:
        return torch.einsum("ide,ie->id", self.hessians, self.w - self.centres)

    def alone(self) -> Float[Tensor, "d"]:
        """Where those who stay end alone, by least squares."""
        roots = torch.linalg.cholesky(self.hessians[STAYS]).mT * PATIENTS[STAYS].sqrt()[:, None, None]
        wanted = torch.einsum("ide,ie->id", roots, self.centres[STAYS])
        return torch.from_numpy(np.linalg.lstsq(roots.flatten(0, 1).numpy(), wanted.flatten().numpy(), rcond=None)[0])

    def locally(self, w: Float[Tensor, "d"]) -> Float[Tensor, "hospitals d"]:
        """Each hospital's weights after two steps from w, whose Hessians differ."""
        for H in (self.hessians, self.other):
            w = w - RATE * torch.einsum("ide,...ie->...id", H, w - self.centres)
        return w

    def jacobians(self) -> Float[Tensor, "hospitals d d"]:
        one = torch.eye(len(self.w), dtype=torch.float64)
        return (one - RATE * self.other) @ (one - RATE * self.hessians)


def check_newton(newton_step: Callable) -> Right:
    """Compares with the optimum of those who stay, by least squares."""
    p = _Hospitals()
    g, H, n = p.gradients, p.hessians, PATIENTS
    found = ask(newton_step, p.w, g, H, PATIENTS, STAYS)

    def stepped(gradient: Tensor, hessian: Tensor) -> Tensor:
        return p.w - torch.linalg.solve(hessian, gradient)

    share, whole = n[STAYS] / n[STAYS].sum(), n / n.sum()
    own, all_H = torch.einsum("i,id->d", share, g[STAYS]), torch.einsum("i,ide->de", whole, H)
    stay_H = torch.einsum("i,ide->de", share, H[STAYS])
    mistakes = {
        "every hospital counts alike: weight each by its number of patients.": stepped(
            g[STAYS].mean(0), H[STAYS].mean(0)
        ),
        "this is the optimum of everybody: leave out the hospitals that go.": stepped(
            torch.einsum("i,id->d", whole, g), all_H
        ),
        "the Hessian is everybody's: that is the step of an influence function.": stepped(own, all_H),
        "the step goes up the gradient instead of down.": 2 * p.w - stepped(own, stay_H),
    }
    judge("the weights", found, p.alone(), mistakes, "these are not the weights that those who stay reach alone.")
    return Right("one step reaches the optimum of those who stay, because these objectives are quadratic.")


def check_round(round_step: Callable) -> Right:
    """Compares with the end of a training of many rounds."""
    p = _Hospitals()
    after, J, n = p.locally(p.w)[STAYS], p.jacobians()[STAYS], PATIENTS[STAYS]
    found = ask(round_step, p.w, after, J, PATIENTS[STAYS])
    share, v = n / n.sum(), p.w
    for _ in range(3000):
        v = share @ p.locally(v)[STAYS]
    F, mean = share @ after, torch.einsum("i,ide->de", share, J)
    one = torch.eye(len(v), dtype=torch.float64)
    mistakes = {
        "this is one more round: the step goes to where further rounds change nothing.": F,
        "every hospital counts alike: weight each by its number of patients.": p.w
        + torch.linalg.solve(one - J.mean(0), after.mean(0) - p.w),
        "J has rows and columns exchanged.": p.w + torch.linalg.solve((one - mean).T, F - p.w),
        "the sign is wrong: F(w) - w is what a round adds.": p.w - torch.linalg.solve(one - mean, F - p.w),
        "(I - J) delta = F(w) - w gives the step, and J alone is not I - J.": p.w + torch.linalg.solve(mean, F - p.w),
    }
    judge("the weights", found, v, mistakes, "one more round still changes these weights.")
    return Right("one more round changes nothing here: this is where the training of those who stay ends.")


def check_auc(auc: Callable) -> Right:
    """Compares with a count by bisection, on scores with ties, and looks at the largest tensor."""
    members = (2 * normal(400, seed=0) + 1).round()
    others = (2 * normal(300, seed=1)).round()
    with Largest() as largest:
        found = ask(auc, members, others)
    sorted_ = sorted(others.tolist())
    below = sum(bisect_left(sorted_, one) for one in members.tolist()) / (len(members) * len(others))
    up_to = sum(bisect_right(sorted_, one) for one in members.tolist()) / (len(members) * len(others))
    mistakes = {
        "a tie counts as a win here, and should count as a half.": up_to,
        "a tie counts as nothing here, and should count as a half.": below,
        "this is the probability that the other's score is higher.": 1 - (below + up_to) / 2,
    }
    value = torch.as_tensor(found, dtype=torch.float64)
    mistakes = {sentence: torch.tensor(mistake, dtype=torch.float64) for sentence, mistake in mistakes.items()}
    right = torch.tensor((below + up_to) / 2, dtype=torch.float64)
    judge("the AUC", value, right, mistakes, "this is not the share of pairs in which the member's score is higher.")
    expect(
        largest.numbers < len(members) * len(others),
        "a tensor has a number for every pair: count with sorted scores instead.",
    )
    return Right(f"the AUC is {float(right):.3f}, and no tensor has a number for every pair.")
