"""The regressions against numpy's normal equations and least squares, and the properties that editing needs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fleke_lib.edit.rome import one_by_one
from fleke_lib.ridge.solve import LowRank, interpolate, null_space, projected_ridge, ridge
from tests.textbook.alphaedit import projector
from tests.textbook.samples import relative

EXACT = 1e-9  # float64 and systems of condition under 1e5
lambdas = st.floats(1e-2, 1e3)


@st.composite
def problems(draw, most_facts: int = 12):
    """Keys, residuals and a second moment of a layer: more facts than dimensions, or fewer."""
    facts, d_mlp, d_model = draw(st.integers(1, most_facts)), draw(st.integers(1, 10)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    keys, residuals, text = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((facts, d_mlp), (facts, d_model), (3 * d_mlp, d_mlp))
    )
    return keys, residuals, text.T @ text / len(text) + 0.1 * torch.eye(d_mlp, dtype=torch.float64)


@given(problems(), lambdas)
def test_ridge_solves_the_normal_equations(problem, lam):
    keys, residuals, moment = problem
    k, r, c = keys.numpy(), residuals.numpy(), moment.numpy()
    dense = r.T @ k @ np.linalg.inv(lam * c + k.T @ k)
    assert relative(ridge(keys, residuals, moment, lam).dense(), torch.from_numpy(dense)) < EXACT


@given(problems(), lambdas)
def test_ridge_is_least_squares_with_the_text_as_further_rows(problem, lam):
    """|K dW^T - R|^2 + lam |C^1/2 dW^T|^2 by numpy's lstsq, which forms no normal equations."""
    keys, residuals, moment = problem
    root = np.linalg.cholesky(moment.numpy()).T
    rows = np.vstack([keys.numpy(), np.sqrt(lam) * root])
    wanted = np.vstack([residuals.numpy(), np.zeros((len(root), residuals.shape[1]))])
    dense, *_ = np.linalg.lstsq(rows, wanted, rcond=None)
    assert relative(ridge(keys, residuals, moment, lam).dense(), torch.from_numpy(dense.T)) < EXACT


@given(problems(), lambdas, st.randoms(use_true_random=False))
def test_the_order_of_facts_does_not_matter(problem, lam, random):
    keys, residuals, moment = problem
    order = random.sample(range(len(keys)), len(keys))
    one, other = ridge(keys, residuals, moment, lam), ridge(keys[order], residuals[order], moment, lam)
    assert relative(other.dense(), one.dense()) < EXACT


@given(problems(), lambdas)
def test_a_fact_twice_is_a_fact_of_double_weight(problem, lam):
    keys, residuals, moment = problem
    twice = ridge(torch.cat([keys, keys]), torch.cat([residuals, residuals]), moment, lam)
    assert relative(twice.dense(), ridge(keys, residuals, moment, lam / 2).dense()) < EXACT


@given(problems())
def test_a_great_lambda_writes_nothing(problem):
    """|dW| <= |R^T K| / (lam * least eigenvalue of C)."""
    keys, residuals, moment = problem
    for lam in (1e3, 1e9, 1e15):
        bound = (residuals.T @ keys).norm() / (lam * torch.linalg.eigvalsh(moment)[0])
        assert ridge(keys, residuals, moment, lam).dense().norm() <= 1.001 * bound


@given(problems(most_facts=4), st.integers(0, 2**31))
def test_a_small_lambda_writes_independent_facts_exactly(problem, seed):
    _, residuals, moment = problem
    generator = torch.Generator().manual_seed(seed)
    d_mlp = len(moment)
    keys = torch.linalg.qr(torch.randn(d_mlp, d_mlp, generator=generator, dtype=torch.float64)).Q[: len(residuals)]
    residuals = residuals[: len(keys)]
    written = keys @ ridge(keys, residuals, moment, 1e-7).dense().T
    assert relative(written, residuals) < 1e-5  # lam |C|


@given(problems(), lambdas)
def test_factors_have_the_rank_of_the_facts(problem, lam):
    keys, residuals, moment = problem
    change = ridge(keys, residuals, moment, lam)
    assert change.rank == len(keys)
    assert change.left.dtype == change.right.dtype == torch.float64
    assert change.left.shape == (residuals.shape[1], len(keys))
    assert change.right.shape == (len(keys), keys.shape[1])


def test_ridge_is_solved_in_float64_whatever_comes_in():
    generator = torch.Generator().manual_seed(0)
    keys, residuals, text = (torch.randn(5, 8, generator=generator) for _ in range(3))
    moment = text.T @ text + torch.eye(8)
    double = ridge(keys.double(), residuals.double(), moment.double(), 3.0)
    assert torch.equal(ridge(keys, residuals, moment, 3.0).dense(), double.dense())


@given(problems(), lambdas)
def test_null_space_is_the_textbooks(problem, threshold):
    _, _, moment = problem
    threshold = min(threshold, 2.0)
    found = null_space(moment, threshold)
    assert torch.allclose(found, projector(moment, threshold), atol=EXACT)
    assert torch.allclose(found @ found, found, atol=EXACT)
    assert torch.linalg.matrix_norm(moment @ found, ord=2) <= threshold


def test_null_space_of_everything_and_of_nothing():
    moment = torch.diag(torch.tensor([0.0, 0.1, 2.0]))
    assert torch.equal(null_space(moment, 3.0), torch.eye(3, dtype=torch.float64))
    assert torch.equal(null_space(moment, 0.0), torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(null_space(moment, 0.5), torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)))


@given(problems(), lambdas)
def test_projected_ridge_is_the_published_system(problem, weight):
    """(P K K^T + ridge I)^-1 P K R^T as AlphaEdit's code solves it, which is not symmetric."""
    keys, residuals, moment = problem
    free = null_space(moment, 1.0)
    system = free @ keys.T @ keys + weight * torch.eye(len(moment), dtype=torch.float64)
    dense = torch.linalg.solve(system, free @ keys.T @ residuals).T
    assert torch.allclose(projected_ridge(keys, residuals, free, weight).dense(), dense, rtol=EXACT, atol=EXACT)


@given(problems(), lambdas)
def test_projected_ridge_leaves_what_text_uses(problem, weight):
    keys, residuals, moment = problem
    free = null_space(moment, 1.0)
    used = torch.eye(len(moment), dtype=torch.float64) - free
    change = projected_ridge(keys, residuals, free, weight).dense()
    assert (change @ used).norm() <= EXACT * max(1.0, change.norm())


@given(problems(most_facts=1))
def test_rome_maps_its_key_to_its_value_exactly(problem):
    keys, residuals, moment = problem
    u = torch.linalg.solve(moment, keys[0])
    assert relative(interpolate(u, keys[0], residuals[0]).dense() @ keys[0], residuals[0]) < EXACT


@given(problems(most_facts=1), st.integers(0, 2**31))
def test_rome_disturbs_text_least_of_all_changes_that_map_its_key(problem, seed):
    """Any further change that preserves the key's image increases tr(dW C dW^T) (ROME, equation 2)."""
    keys, residuals, moment = problem
    key = keys[0]
    change = interpolate(torch.linalg.solve(moment, key), key, residuals[0]).dense()
    other = torch.randn(change.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    other -= torch.outer(other @ key, key) / (key @ key)

    def cost(matrix):
        return float(torch.trace(matrix @ moment @ matrix.T))

    assert cost(change + other) == pytest.approx(cost(change) + cost(other))


@given(problems(most_facts=1))
def test_ridge_tends_to_rome(problem):
    """One fact, one layer, lambda to zero: the constraint holds with equality."""
    keys, residuals, moment = problem
    exact = interpolate(torch.linalg.solve(moment, keys[0]), keys[0], residuals[0]).dense()
    reach = keys[0] @ torch.linalg.solve(moment, keys[0])
    lam = 1e-6 * float(reach)
    assert relative(ridge(keys, residuals, moment, lam).dense(), exact) < 2e-6


@settings(max_examples=30)
@given(problems(most_facts=6))
def test_romes_facts_one_by_one_are_rank_one_updates_in_turn(problem):
    keys, residuals, moment = problem
    directions = torch.linalg.solve(moment, keys.T).T
    weight = torch.zeros(residuals.shape[1], keys.shape[1], dtype=torch.float64)
    for u, key, wanted in zip(directions, keys, residuals, strict=True):
        weight = weight + torch.outer(wanted - weight @ key, u) / (u @ key)
    found = one_by_one(directions, keys, residuals)
    assert found.rank == len(keys)
    assert relative(found.dense(), weight) < 1e-6  # facts that crowd few dimensions undo each other with great factors
    assert relative(found.dense() @ keys[-1], residuals[-1]) < 1e-6


@settings(max_examples=10)
@given(problems(most_facts=9), st.integers(1, 4))
def test_romes_facts_are_the_same_writes_however_many_are_kept_apart(problem, together):
    keys, residuals, moment = problem
    directions = torch.linalg.solve(moment, keys.T).T
    whole = one_by_one(directions, keys, residuals)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(one_by_one.__globals__, "TOGETHER", together)
        found = one_by_one(directions, keys, residuals)
    assert torch.equal(found.right, whole.right)
    assert relative(found.dense(), whole.dense()) < 1e-6


def test_a_singular_system_is_refused_in_a_sentence():
    keys, residuals = torch.eye(8)[:2], torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"singular: measure C on more tokens, or give a greater lambda\.$"):
        ridge(keys, residuals, torch.zeros(8, 8), 1.0)


@pytest.mark.parametrize("rank", [3, 4, 5, 9])
def test_beyond_the_width_of_a_model_a_dense_matrix_is_smaller(rank):
    change = LowRank(torch.randn(4, rank), torch.randn(rank, 6))
    small = change.smallest()
    assert torch.equal(small.dense(), change.dense())
    assert small.rank == min(rank, 4) and (small is change) == (rank <= 4)


def test_low_rank_multiplies_its_factors():
    change = LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0, 5.0]]))
    assert change.rank == 1
    assert torch.equal(change.dense(), torch.tensor([[3.0, 4.0, 5.0], [6.0, 8.0, 10.0]]))
