"""Disturbance against the mean over keys themselves, and the lambda that a budget asks for."""

import pytest
import torch

from fleke_lib.edit import Edit, trajectory
from fleke_lib.edit.closed_form import lambda_of
from fleke_lib.edit.disturbance import disturbance, within_budget
from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.ridge.solve import LowRank
from tests.tiny import tiny

LAYERS = (1, 2)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def lm():
    return tiny("llama")


@pytest.fixture(scope="module")
def keys(lm):
    """Keys of ordinary text, 500 of each layer, as uneven as real ones."""
    return {i: normal(i, 500, lm.d_mlp).double() * torch.logspace(-2, 1, lm.d_mlp, dtype=torch.float64) for i in LAYERS}


@pytest.fixture(scope="module")
def moments(keys):
    return {i: k.T @ k / len(k) for i, k in keys.items()}


def paths(lm, n, size=1.0):
    """Trajectories of random numbers; with a greater size they ask for more."""

    def path(seed):
        return Trajectory(
            {i: 0.1 * normal(1000 * seed + i, 2, lm.d_mlp) for i in LAYERS},
            {i: size * normal(2000 * seed + i, lm.d_model) for i in LAYERS},
            lm.fingerprint(LAYERS),
            size * normal(3000 * seed, lm.d_model),
            bases={i: 0.1 * normal(4000 * seed + i, lm.d_mlp) for i in LAYERS},
        )

    return [path(seed) for seed in range(1, n + 1)]


def mean_over_keys(edit, lm, keys):
    """d by one product for each key."""
    found = []
    for layer in edit.layers:
        changes = [float((edit.delta(layer).double() @ k).square().sum()) for k in keys[layer]]
        outputs = [float((lm.weight(layer).double() @ k).square().sum()) for k in keys[layer]]
        found.append(sum(changes) / sum(outputs))
    return (sum(found) / len(found)) ** 0.5


def test_it_is_the_root_of_the_mean_over_ordinary_keys(lm, keys, moments):
    for edit in (
        trajectory(paths(lm, 3), moments, 0.1),  # of low rank
        trajectory(paths(lm, 40), moments, 0.1),  # dense
        Edit({1: LowRank.of(lm.weight(1).detach().clone())}, lm.fingerprint((1,))),
    ):
        assert disturbance(edit, lm, moments) == pytest.approx(mean_over_keys(edit, lm, keys), rel=1e-5)
    assert disturbance(edit, lm, moments) == pytest.approx(1.0, rel=1e-5), "every output is doubled"


def test_it_is_of_the_base_model_whatever_is_applied(lm, moments):
    edit = trajectory(paths(lm, 3), moments, 0.1)
    before = disturbance(edit, lm, moments)
    with edit.applied(lm):
        assert disturbance(edit, lm, moments) == before


def test_few_facts_have_the_presets_lambda_bit_for_bit(lm, moments):
    some = paths(lm, 2, size=0.01)
    plain, found = trajectory(some, moments, lambda_of(lm.preset)), within_budget(lm, some, moments)
    assert all(torch.equal(found.delta(i), plain.delta(i)) for i in LAYERS)
    assert found.notes["lambda"] == f"{lambda_of(lm.preset):g}" and found.fingerprint == plain.fingerprint


@pytest.mark.parametrize("coupling", [0, None])
def test_many_have_the_smallest_lambda_within_the_budget(lm, moments, coupling):
    some, start = paths(lm, 40, size=300.0), lambda_of(lm.preset)
    free = disturbance(trajectory(some, moments, start, coupling=coupling), lm, moments)
    found = within_budget(lm, some, moments, free / 3, coupling=coupling)
    lam = float(found.notes["lambda"])
    assert lam > start and lam / start == 2 ** round(torch.tensor(lam / start).log2().item())
    assert disturbance(found, lm, moments) <= free / 3
    assert disturbance(trajectory(some, moments, lam / 2, coupling=coupling), lm, moments) > free / 3
    again = trajectory(some, moments, lam, coupling=coupling)
    assert all(torch.equal(found.delta(i), again.delta(i)) for i in LAYERS)


def test_bad_input_is_named(lm, moments):
    edit = trajectory(paths(lm, 2), moments, 1.0)
    with pytest.raises(ValueError, match="moments has no C for layer 2: give second_moments"):
        disturbance(edit, lm, {1: moments[1]})
    for budget in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"budget is .*: give the greatest disturbance that you accept, above 0"):
            within_budget(lm, paths(lm, 2), moments, budget)
