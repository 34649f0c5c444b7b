"""The figures on rows: their JSON files hold the given numbers, and the alt texts name them."""

import json

import numpy as np
import pytest

from fleke_lib.beyond.credit import Fairness
from fleke_lib.beyond.successive import Drift
from fleke_lib.figures import beyond_rows as figures
from fleke_lib.unlearn.classifier.membership import MembershipAudit


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path))


def on_disk(picture) -> dict:
    words = json.loads(picture.path.with_suffix(".json").read_text())
    assert words["data"] == picture.data and words["alt"] == picture.alt
    assert picture.path.read_bytes().startswith(b"\x89PNG")
    return words["data"]


def test_drifts():
    found = {
        "influence": {1: Drift(0.02, 1e-4, 0.1), 10: Drift(0.04, 2e-3, 0.2)},
        "replay": {1: Drift(0, 0, 0.1), 10: Drift(0, 0, 0.1)},
    }
    picture = figures.drifts(found, "users")
    assert on_disk(picture)["influence"]["10"] == {"missed": 0.04, "relative": 0.002, "seconds": 0.2}
    assert "influence: 2.0e-02 after 1, 4.0e-02 after 10" in picture.alt and "withdrawn users" in picture.caption


def test_approvals():
    one = Fairness({"young": 0.6, "others": 0.8}, {"young": 0.7, "others": 0.9}, 0.2, (0.1, 0.3), 0.2, (0.05, 0.35))
    picture = figures.approvals({"nobody": one, "some": one})
    assert on_disk(picture)["some"]["parity_interval"] == [0.1, 0.3]
    assert "nobody: young 0.60, others 0.80, difference 0.200 (0.100 to 0.300)" in picture.alt


def test_audits():
    scores = np.zeros((50, 1))
    one = {
        "left": MembershipAudit(scores, scores, 0.5, (0.48, 0.52)),
        "stayed": MembershipAudit(scores, scores, 0.8, (0.7, 0.9)),
    }
    picture = figures.audits({"before": one, "after": one})
    assert on_disk(picture)["after"]["stayed"] == {"auc": 0.8, "interval": [0.7, 0.9]}
    assert "before: left 0.50 (0.48 to 0.52), stayed 0.80 (0.70 to 0.90)" in picture.alt
