"""The speakers: the data, features against the kernel, the head against scikit-learn's, a speaker who leaves."""

import sys

import numpy as np
import pytest
import torch
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import Ridge

from fleke_lib.beyond import voice
from fleke_lib.beyond.rows import LAYER, identity, row_sums, rows_of
from fleke_lib.beyond.successive import solve_again
from fleke_lib.edit.downdate import factorise


@pytest.fixture(scope="module")
def said():
    return voice.japanese_vowels()


def test_the_wheel_carries_the_expected_series_and_is_not_imported(said):
    assert np.bincount(said.speakers).tolist() == [30] * 9
    test = voice.japanese_vowels("TEST")
    assert np.bincount(test.speakers).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert said.summaries.shape == (270, 60) and said.summaries.isfinite().all()
    assert said.values.sum(1).eq(1).all() and said.values.argmax(1).tolist() == said.speakers.tolist()
    assert "aeon" not in sys.modules


def test_another_file_is_refused(monkeypatch):
    monkeypatch.setitem(voice.FILES, "TRAIN.ts", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        voice.japanese_vowels()


def test_a_summary_by_hand():
    frames = torch.arange(7 * 12, dtype=torch.float64).reshape(7, 12)
    found = voice.summary(frames)
    np.testing.assert_allclose(found[:12], frames.numpy().mean(0))
    np.testing.assert_allclose(found[12:24], frames.numpy().std(0))
    np.testing.assert_allclose(found[24:36], frames.numpy()[:3].mean(0))


def test_random_features_approximate_the_gaussian_kernel(said):
    some = said.summaries[:40] / 5  # near zero, where a phase that is missing shows
    keys = voice.random_features(some, width=20_000, reach=1.5)
    np.testing.assert_allclose(keys @ keys.T, RBF(1.5)(some.numpy()), atol=0.05)
    assert torch.equal(voice.random_features(some[3:4]), voice.random_features(some)[3:4])


def test_the_head_is_scikit_learns_ridge_and_recognises_speakers(said):
    keys = voice.random_features(said.summaries)
    W = row_sums(keys, said.values).solve(identity(voice.WIDTH)[LAYER], voice.LAMBDA)
    peer = Ridge(voice.LAMBDA, fit_intercept=False, solver="cholesky").fit(keys.numpy(), said.values.numpy()).coef_
    np.testing.assert_allclose(W, peer, atol=1e-9)
    test = voice.japanese_vowels("TEST")
    assert voice.accuracy(W, voice.random_features(test.summaries), test) > 0.97


def test_a_speaker_leaves_as_if_never_there(said):
    rows = rows_of(voice.random_features(said.summaries), said.values)
    stay = np.flatnonzero(said.speakers != 4)
    never = rows_of(voice.random_features(said.summaries[stay]), said.values[stay])
    replayed, control = solve_again([rows[i] for i in stay], voice.LAMBDA), solve_again(never, voice.LAMBDA)
    assert torch.equal(replayed, control) and not control[4].any()
    system = factorise(rows, identity(voice.WIDTH), voice.LAMBDA)
    downdated = system.changed(gone=[rows[i] for i in np.flatnonzero(said.speakers == 4)]).delta(LAYER)
    assert float((downdated - control).norm()) < 1e-9 * float(control.norm())


def test_margins_by_hand():
    W, keys = torch.eye(3, dtype=torch.float64), torch.tensor([[3.0, 1, 2], [0, 5, 1]], dtype=torch.float64)
    np.testing.assert_allclose(voice.margins(W, keys, np.array([0, 2])), [1, -4])
