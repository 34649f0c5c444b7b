"""The figures on privacy: their JSON files hold the given rates, and the alt texts name them."""

import json

import pytest

from fleke_lib.figures import privacy as figures
from fleke_lib.privacy.attacks.rates import Rate


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path))


def on_disk(picture) -> dict:
    words = json.loads(picture.path.with_suffix(".json").read_text())
    assert words["data"] == picture.data and words["alt"] == picture.alt
    assert picture.path.read_bytes().startswith(b"\x89PNG")
    return words["data"]


def test_rates_of_groups_that_lack_some_attacks():
    groups = {
        "plain": {"subject": Rate(9, 10, 0.01), "target": Rate(0, 10, 0.1)},
        "sealed": {"subject": Rate(0, 10, 0.01)},
    }
    picture = figures.rates(groups)
    data = on_disk(picture)
    assert data["plain"]["subject"]["share"] == 0.9 and data["plain"]["target"]["chance"] == 0.1
    low, high = Rate(9, 10, 0.01).interval
    assert data["plain"]["subject"]["interval"] == pytest.approx([low, high], rel=1e-5)
    assert set(data["sealed"]) == {"subject"}
    assert "plain: subject 0.90, target 0.00; sealed: subject 0.00" in picture.alt


def test_a_defence_costs_the_edit_and_the_attacker():
    use, attacked = {"score": [0.9, 0.2]}, {"subject": [Rate(10, 10, 0.1), Rate(9, 10, 0.1)]}
    picture = figures.defended([0, 2.0], use, attacked)
    data = on_disk(picture)
    assert data == {"levels": [0, 2.0], "use": use, "attacked": {"subject": [1.0, 0.9]}}
    assert "strength 0, 2: score 0.90, 0.20; subject 1.00, 0.90" in picture.alt
