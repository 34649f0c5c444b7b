"""Many small withdrawals, one after another: how far each method ends from weights that never saw the withdrawn rows.

W = T (lam I + S)^-1 minimises `sum_i |v_i - W k_i|^2 + lam |W|^2`. A row (k, v) that leaves has the gradient
g = (v - W k) k^T at the current W. In the order of the requests, the methods do this for each leaving row:

    one gradient step          W <- W - g / mu, with mu the largest eigenvalue of A = lam I + S: the usual step length
    subtract its own update    W <- W - v k^T (lam I + k k^T)^-1, what the row would have given alone
    influence                  W <- W - g A^-1, with the A of the beginning (Koh and Liang, arXiv 1703.04730)
    downdate                   the Woodbury identity on the first factor (`fleke_lib.edit.downdate`): exact
    replay                     the sums of the remaining rows, added up again and solved: bit for bit
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.beyond.rows import LAYER, KeyValue, identity
from fleke_lib.edit.downdate import FactoredEdit, factorise
from fleke_lib.ridge.sums import sums

Change = Float[Tensor, "m d"]


@dataclass(frozen=True)
class Drift:
    """One method after some withdrawals.

    missed: distance from the weights that never saw the rows, in units of the withdrawn rows' whole effect: 1 is doing
    nothing. relative: the same distance in units of these weights. seconds: until these weights are there; downdate and
    replay do not depend on what was solved in between, and do all withdrawals at once.
    """

    missed: float
    relative: float
    seconds: float


def drifts(
    rows: Sequence[KeyValue], leaving: Sequence[int], counts: Sequence[int], lam: float
) -> dict[str, dict[int, Drift]]:
    """Every method's drift after the first 1, 10, ... of the rows `leaving` have left one after another.

    Args:
        leaving: positions in `rows`, in the order of the requests.
        counts: after how many withdrawals to compare.
    """
    system = factorise(rows, identity(len(rows[0].key)), lam)
    start = system.layers[LAYER].change
    steps = {name: step(system, lam) for name, step in STEPS.items()}
    found: dict[str, dict[int, Drift]] = {name: {} for name in (*steps, "downdate", "replay")}
    for count in counts:
        gone = [rows[i] for i in leaving[:count]]
        out = set(leaving[:count])
        begin = perf_counter()
        goal = solve_again([row for i, row in enumerate(rows) if i not in out], lam)
        seconds = perf_counter() - begin
        found["replay"][count] = Drift(0.0, 0.0, seconds)

        def compared(W: Change, seconds: float, goal: Change = goal) -> Drift:
            off = float((W - goal).norm())
            return Drift(off / float((start - goal).norm()), off / float(goal.norm()), seconds)

        for name, step in steps.items():
            begin, W = perf_counter(), start
            for row in gone:
                W = step(W, row)
            found[name][count] = compared(W, perf_counter() - begin)
        begin = perf_counter()
        W = system.changed(gone=gone).changes[LAYER].right
        found["downdate"][count] = compared(W, perf_counter() - begin)
    return found


def solve_again(rows: Sequence[KeyValue], lam: float) -> Change:
    """W from these rows alone."""
    return sums(rows, LAYER).solve(identity(len(rows[0].key))[LAYER], lam)


Step = Callable[[Change, KeyValue], Change]


def gradient_step(system: FactoredEdit, lam: float) -> Step:
    """One step that raises the leaving row's loss."""
    factor = system.layers[LAYER].factor
    mu = float(torch.linalg.eigvalsh(factor @ factor.T)[-1])
    return lambda W, row: W - torch.outer(row.value - W @ row.key, row.key) / mu


def own_update(system: FactoredEdit, lam: float) -> Step:
    """Subtract the weights that the leaving row alone would have given."""
    return lambda W, row: W - torch.outer(row.value, row.key) / (lam + row.key @ row.key)


def influence(system: FactoredEdit, lam: float) -> Step:
    """One step with the Hessian of the beginning, which still contains all rows that have left."""
    factor = system.layers[LAYER].factor
    return lambda W, row: W - torch.outer(row.value - W @ row.key, torch.cholesky_solve(row.key[:, None], factor)[:, 0])


STEPS = {"one gradient step": gradient_step, "subtract its own update": own_update, "influence": influence}
