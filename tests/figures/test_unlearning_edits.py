"""The figures on withdrawn edits: their JSON files hold the given numbers, and the alt texts name them."""

import json

import numpy as np
import pytest

from fleke_lib.evaluation.results import METRICS, Evaluation
from fleke_lib.facts.fact import Fact
from fleke_lib.figures import unlearning_edits as figures


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path))


def measured(value: float) -> Evaluation:
    asked = tuple(Fact(f"S{i}", "The {} is", "a", "b") for i in range(6))
    return Evaluation(asked, {name: np.full(6, value) for name in METRICS})


def on_disk(picture) -> dict:
    words = json.loads(picture.path.with_suffix(".json").read_text())
    assert words["data"] == picture.data and picture.path.read_bytes().startswith(b"\x89PNG")
    assert words["alt"] == picture.alt
    return words["data"]


def test_misses_are_kept_as_they_are_also_where_they_are_nothing():
    found = {"a client": {"replay": 0.0, "nothing": 1.0, "influence": 0.3}, "a fact": {"nothing": 1.0}}
    picture = figures.misses(found)
    assert on_disk(picture) == found
    assert "replay 0, influence 0.3, nothing 1" in picture.alt


def test_forgotten_and_retained():
    models = {"base": measured(-0.5), "before": measured(0.7), "after": measured(-0.4)}
    picture = figures.forgotten(models, {name: measured(0.6) for name in models})
    data = on_disk(picture)
    assert data["withdrawn"]["after"]["mean"] == pytest.approx(-0.4)
    assert data["retained"]["after"]["mean"] == pytest.approx(0.6)
    assert "after: withdrawn -0.40, retained 0.60" in picture.alt


def test_times():
    picture = figures.times((10, 100), {"replay": (0.1, 1.0), "anew": (20.0, 200.0)})
    assert on_disk(picture) == {"facts": [10, 100], "seconds": {"replay": [0.1, 1.0], "anew": [20.0, 200.0]}}
    assert "anew: 20, 200" in picture.alt
