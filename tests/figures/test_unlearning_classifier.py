"""The figures on hospitals: their JSON files hold the given numbers, and the alt texts name them."""

import json

import numpy as np
import pytest

from fleke_lib.figures import unlearning_classifier as figures
from fleke_lib.unlearn.classifier.membership import MembershipAudit
from fleke_lib.unlearn.classifier.methods import STEPS, Comparison, Message, Unlearned


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path))


def on_disk(picture) -> dict:
    words = json.loads(picture.path.with_suffix(".json").read_text())
    assert words["data"] == picture.data and picture.path.read_bytes().startswith(b"\x89PNG")
    assert words["alt"] == picture.alt and len(picture.alt) > 40
    return words["data"]


def audited(auc: float, reach: float = 0.03) -> MembershipAudit:
    scores = np.zeros((1000, 1))
    return MembershipAudit(scores, scores, auc, (auc - reach, auc + reach))


def compared(distance: float) -> Comparison:
    return Comparison("newton", distance, 0.97, 1.0, 0.01, 2480)


def test_the_four_steps_carry_their_bytes():
    messages = (
        Message(STEPS[0], "B", "server", "how many leave", 1),
        *(Message(STEPS[2], place, "server", "gradient and Hessian", 527) for place in "AC"),
        *(Message(STEPS[3], "server", place, "new weights", 31) for place in "AC"),
    )
    picture = figures.four_steps(Unlearned("newton", np.zeros(31), 0.1, messages), "hospital B")
    assert on_disk(picture)["bytes"] == {
        "identification": 8, "local adjustment": 0, "aggregation": 8432, "global update": 496
    }  # fmt: skip
    assert "3, aggregation: the server adds their reports up, 8,432 bytes" in picture.alt
    assert "hospital B" in picture.caption


def test_distances_by_training_request_and_method():
    found = {"nothing": compared(0.2), "newton": compared(0.001), "retrain": compared(0.0)}
    picture = figures.distances({"one step": {"one patient": found}, "five steps": {"one patient": found}})
    data = on_disk(picture)
    assert data["five steps"]["one patient"]["newton"]["distance"] == pytest.approx(0.001)
    assert data["one step"]["one patient"]["retrain"]["distance"] == 0
    assert "one step, one patient: nothing 2.0e-01, newton 1.0e-03" in picture.alt


def test_membership_before_and_after():
    picture = figures.membership({"20 patients": {"nothing": audited(0.8), "newton": audited(0.51)}})
    data = on_disk(picture)["20 patients"]
    assert data["nothing"] == {"auc": 0.8, "interval": [0.77, 0.83]}
    assert "nothing 0.80 (0.77 to 0.83), newton 0.51 (0.48 to 0.54)" in picture.alt
    assert "within 0.05 of 0.5" in picture.caption


def test_privacy_and_what_it_leaves():
    left = {"epsilon 8": {"one patient": audited(0.52), "a hospital": audited(0.8)}}
    picture = figures.privacy({8.0: [0.96, 0.95], 1.0: [0.94, 0.9]}, 0.97, left, 1e-3)
    data = on_disk(picture)
    assert data["accuracy"] == {"1": [0.94, 0.9], "8": [0.96, 0.95]}
    assert data["auc"]["epsilon 8"]["a hospital"]["auc"] == 0.8
    assert "1: 0.920, 8: 0.955; without privacy 0.970" in picture.alt
