"""Withdrawals one after another: every method against its definition, on rows drawn at random."""

import pytest
import torch

from fleke_lib.beyond.rows import LAYER, identity, rows_of
from fleke_lib.beyond.successive import STEPS, drifts, solve_again
from fleke_lib.edit.closed_form import trajectory
from fleke_lib.edit.downdate import factorise
from fleke_lib.unlearn.edits import approximate

LAM = 0.7


@pytest.fixture
def rows():
    draw = torch.Generator().manual_seed(0)
    keys = torch.randn(40, 6, generator=draw, dtype=torch.float64)
    return rows_of(keys, torch.randn(40, 3, generator=draw, dtype=torch.float64))


def test_exact_methods_stay_exact_and_others_drift(rows):
    found = drifts(rows, range(20), (1, 5, 20), LAM)
    for count in (1, 5, 20):
        assert found["downdate"][count].relative < 1e-12
        assert found["replay"][count].missed == 0
        assert found["influence"][count].missed > 1e-3
    assert found["influence"][20].relative > found["influence"][5].relative > found["influence"][1].relative


def test_the_goal_is_what_the_other_rows_give(rows):
    keys, values = (torch.stack([getattr(row, name) for row in rows[5:]]) for name in ("key", "value"))
    by_hand = torch.linalg.solve(LAM * torch.eye(6, dtype=torch.float64) + keys.T @ keys, keys.T @ values).T
    torch.testing.assert_close(solve_again(rows[5:], LAM), by_hand)


def test_one_step_is_that_of_the_approximate_methods_for_edits(rows):
    system = factorise(rows, identity(6), LAM)
    start = system.edit().delta(LAYER)
    own = trajectory(rows[:1], identity(6), LAM, coupling=0)
    for name, edit in (
        ("influence", approximate.influence(system, rows[:1])),
        ("subtract its own update", approximate.subtract(system.edit(), own)),
    ):
        torch.testing.assert_close(STEPS[name](system, LAM)(start, rows[0]), edit.delta(LAYER))


def test_the_gradient_step_goes_along_the_rows_gradient(rows):
    system = factorise(rows, identity(6), LAM)
    W = system.edit().delta(LAYER).clone().requires_grad_()
    row = rows[0]
    ((row.value - W @ row.key) ** 2).sum().backward()
    moved = STEPS["one gradient step"](system, LAM)(W.detach(), row) - W.detach()
    keys = torch.stack([one.key for one in rows])
    largest = torch.linalg.eigvalsh(keys.T @ keys)[-1] + LAM
    torch.testing.assert_close(moved, W.grad / 2 / largest)
