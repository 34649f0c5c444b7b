"""The change that comes nearest to a wanted one behind a norm, against general optimisers, with gains as in Gemma-3."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fleke_lib.model.post_norm import KEPT, carried, reachable
from tests.textbook import norm as textbook
from tests.textbook.samples import relative
from tests.tiny import D_MODEL, KINDS, tiny

LAYER = 2


def behind(gain: torch.Tensor):
    """A tiny Gemma-3 whose norm behind the MLP of one layer has these gains; the norm adds 1 to its weight itself."""
    lm = tiny("gemma3_text")
    with torch.no_grad():
        lm.mlp_norm(LAYER).weight.copy_(gain - 1)
    return lm


def gains(lm) -> torch.Tensor:
    return (1 + lm.mlp_norm(LAYER).weight).double()


def wild(seed: int) -> torch.Tensor:
    """Gains from 0 to 789 over eight orders of magnitude, some of them zero, some negative."""
    draw = torch.Generator().manual_seed(seed)
    gain = 789 * 10 ** (-8 * torch.rand(D_MODEL, generator=draw))
    gain[:4] = torch.tensor([0.0, 0.0, -132.0, 789.0])
    return gain


def sample(seed: int, size: float = 0.1, gain: torch.Tensor | None = None, rows: int = 3):
    """A model, outputs of its MLP, and wanted changes `size` times as long as what leaves the norm."""
    lm = behind(wild(seed) if gain is None else gain)
    draw = torch.Generator().manual_seed(seed + 1000)
    y, r = torch.randn(2, rows, D_MODEL, generator=draw)
    now = lm.mlp_norm(LAYER)(y)
    return lm, y, size * r * now.norm(dim=1, keepdim=True) / r.norm(dim=1, keepdim=True)


def squared_distance(lm, y, r, change) -> torch.Tensor:
    """Squared distance of what leaves the norm from what is wanted."""
    norm = lm.mlp_norm(LAYER)
    return (norm((y + change).float()).double() - norm(y).double() - r.double()).pow(2).sum(-1)


@pytest.mark.parametrize("size", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_optimiser_finds_a_nearer_point(seed, size):
    """Quasi-Newton from several starts over u = v / rms(v), which knows neither the multiplier nor its equation."""
    lm, y, r = sample(seed, size, rows=1)
    gain = gains(lm).numpy()
    now = (y / y.pow(2).mean(-1, keepdim=True).sqrt())[0].double().numpy()
    target = gain * now + r[0].double().numpy()
    kept = KEPT * np.mean(gain**2)

    def value(v):
        u = v / np.sqrt(np.mean(v**2))
        slope = 2 * gain * (gain * u - target) + 2 * kept * (u - now)
        slope = slope - u * np.mean(u * slope)
        return np.sum((gain * u - target) ** 2) + kept * np.sum((u - now) ** 2), slope / np.sqrt(np.mean(v**2))

    u = (y + carried(lm, LAYER, y, r))[0].double().numpy()
    found, _ = value(u)
    starts = [u, now, *np.random.default_rng(seed).normal(size=(8, D_MODEL))]
    options = {"maxiter": 20_000, "ftol": 1e-15, "gtol": 1e-12, "maxfun": 50_000}
    best = min(minimize(value, v, jac=True, method="L-BFGS-B", options=options).fun for v in starts)
    assert found <= best * (1 + 1e-3) + 1e-9 * np.sum(target**2)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_change_is_the_root_of_the_textbooks_equation(seed, size):
    lm, y, r = sample(seed, size)
    for one, wanted, found in zip(y, r, carried(lm, LAYER, y, r), strict=True):
        assert relative(found, textbook.carried(lm, LAYER, one, wanted)) < 1e-4


def test_a_single_gain_near_zero_costs_nothing():
    """The case of a real Gemma-3 in small: ordinary gains, but one weight is -0.9999."""
    gain = torch.ones(D_MODEL)
    gain[0] = 1e-4
    lm, y, r = sample(0, 0.1, gain)
    possible = reachable(lm, LAYER, y, r)
    assert (possible.norm(dim=1) < 1.05 * r.norm(dim=1)).all()
    assert (torch.cosine_similarity(possible, r, dim=1) > 0.9).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_change_is_no_change(seed):
    """Also where gains are zero: there, every output gives the same stream."""
    lm, y, r = sample(seed)
    assert (carried(lm, LAYER, y, 0 * r).norm(dim=1) < 1e-6 * y.norm(dim=1)).all()
    assert (reachable(lm, LAYER, y, 0 * r).norm(dim=1) < 1e-6 * lm.mlp_norm(LAYER)(y).norm(dim=1)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.floats(-8, 4))
def test_it_is_never_farther_than_no_change_and_keeps_the_outputs_length(seed, size):
    lm, y, r = sample(seed, 10**size)
    change = carried(lm, LAYER, y, r)
    assert change.isfinite().all()
    assert torch.allclose((y + change).norm(dim=1), y.norm(dim=1), rtol=1e-5)
    assert (squared_distance(lm, y, r, change).sqrt() <= r.double().norm(dim=1) * 1.001 + 1e-3).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.floats(-6, 1))
def test_a_small_change_of_the_stream_is_a_small_change_of_the_output(seed, size):
    """No gain near zero makes it large: |u - u_0| <= |r| / sqrt(eps), by the value of the objective at u_0."""
    lm, y, r = sample(seed, 10**size)
    eps = KEPT * gains(lm).pow(2).mean()
    change = carried(lm, LAYER, y, r).double() / y.double().pow(2).mean(-1, keepdim=True).sqrt()
    assert (change.norm(dim=1) <= 1.001 * r.double().norm(dim=1) / eps.sqrt() + 1e-5).all()


@pytest.mark.parametrize("seed", range(3))
def test_what_the_norm_can_put_out_is_reached(seed):
    lm, y, _ = sample(seed)
    norm = lm.mlp_norm(LAYER)
    other = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
    r = norm(other) - norm(y)
    assert relative(reachable(lm, LAYER, y, r), r) < 0.01


def test_degenerate_outputs_and_wishes_stay_finite():
    """The norm should put out nothing; outputs along one axis or of zero; gains that are all equal, or all zero."""
    for gain in (wild(0), torch.ones(D_MODEL), torch.zeros(D_MODEL)):
        lm, y, r = sample(1, gain=gain)
        y[1] = torch.eye(D_MODEL)[0]
        y[2] = 0
        for wanted in (r, -lm.mlp_norm(LAYER)(y), torch.zeros_like(r)):
            change = carried(lm, LAYER, y, wanted)
            assert change.isfinite().all()
            assert torch.allclose((y + change).norm(dim=1), y.norm(dim=1), rtol=1e-5)


def test_rows_do_not_depend_on_each_other():
    lm, y, r = sample(2, rows=6)
    together = carried(lm, LAYER, y, r)
    for i in range(len(y)):
        assert torch.allclose(carried(lm, LAYER, y[i : i + 1], r[i : i + 1])[0], together[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_give_a_change_in_float32(dtype):
    lm, y, r = sample(3)
    half = lm.mlp_norm(LAYER).to(dtype)
    full = behind(1 + half.weight.float())
    change = carried(lm, LAYER, y, r)
    assert change.dtype == torch.float32
    assert relative(change, carried(full, LAYER, y, r)) < 0.02


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gemma3_text"])
def test_without_a_norm_the_change_is_the_wanted_one(kind):
    lm, r = tiny(kind), torch.ones(1, D_MODEL)
    assert carried(lm, LAYER, r, r) is r and reachable(lm, LAYER, r, r) is r
