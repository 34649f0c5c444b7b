"""The figures of the image model: their JSON files hold the given numbers, and the alt texts name them."""

import json

import numpy as np
import pytest
import torch

from fleke_lib.beyond.digits import pictures
from fleke_lib.beyond.locating import ImageTrace
from fleke_lib.evaluation.resampling import Estimate
from fleke_lib.figures import beyond as figures


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path))


def on_disk(picture) -> dict:
    words = json.loads(picture.path.with_suffix(".json").read_text())
    assert words["data"] == picture.data and words["alt"] == picture.alt
    assert picture.path.read_bytes().startswith(b"\x89PNG")
    return words["data"]


def test_pictures_are_shown_with_their_answers():
    some = pictures()["test"].pick(range(3))
    picture = figures.shown({"as drawn": (some, torch.tensor([1, 2, 3])), "falling": (some, torch.tensor([0, 0, 0]))})
    assert on_disk(picture)["falling"] == {"digits": some.digits.tolist(), "answers": [0, 0, 0]}
    assert "are read as 0, 0, 0" in picture.alt


def test_a_map_has_every_patch_and_the_class_token():
    scores = torch.zeros(2, 17, 3)
    scores[:, 7, 0] = 0.75  # patch (1, 2)
    scores[:, 0, 2] = 0.5
    picture = figures.patch_maps(ImageTrace("mlp", torch.ones(2), torch.zeros(2), scores), (1, 2), "the MLP's output")
    assert on_disk(picture)["effect"] == scores[0].tolist()
    assert "layer 0 0.75 at the patch (1, 2)" in picture.alt and "layer 2 0.50 at the class token" in picture.alt


def test_effects_and_rates_keep_their_intervals():
    line = Estimate(np.array([0.1, 0.9]), np.array([0.0, 0.8]), np.array([0.2, 1.0]))
    picture = figures.effects({"trigger": {"class token": line}})
    assert on_disk(picture)["trigger"]["class token"] == {"mean": [0.1, 0.9], "low": [0.0, 0.8], "high": [0.2, 1.0]}
    assert "trigger, class token: 0.10, 0.90" in picture.alt
    rate = {"attack": Estimate(0.5, 0.4, 0.6)}
    picture = figures.mended({"before": rate, "together": rate})
    assert on_disk(picture)["together"]["attack"] == {"mean": 0.5, "low": 0.4, "high": 0.6}


def test_cosines_are_named_by_group():
    cosines = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, -0.2], [0.0, -0.2, 1.0]])
    picture = figures.similarities(cosines, ["A, trigger", "A, trigger", "B, style"])
    assert on_disk(picture)["cosines"] == cosines.tolist()
    assert "A, trigger with A, trigger 0.75; A, trigger with B, style -0.10" in picture.alt
