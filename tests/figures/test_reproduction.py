"""The figure of chapter 08: its JSON file holds the given numbers, and the alt text names them."""

import json

import pytest

from fleke_lib.figures import reproduction
from fleke_lib.reproduce.sweeps import Swept


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path))


def swept(name: str, values, **lines) -> Swept:
    return Swept(name, f"What of {name}?", name, "score (0 to 1)", values, lines, 8, 1.0)


def test_every_sweep_has_a_panel_and_its_numbers(monkeypatch):
    drawn = []
    finish = reproduction.finish
    monkeypatch.setattr(reproduction, "finish", lambda figure, *a, **k: drawn.append(figure) or finish(figure, *a, **k))
    found = [
        swept("clients", (2, 4, 16), FedEdit=(0.9, 0.9, 0.9), FedAvg=(0.5, 0.25, 0.06)),
        swept("lambda", (10, 100, 1000), score=(0.7, 0.8, 0.6)),
        swept("tau", (0.0, 0.9), recall=(1.0, 0.0)),
    ]
    picture = reproduction.sensitivity(found, "08-test")
    data = json.loads(picture.path.with_suffix(".json").read_text())["data"]
    assert data["clients"]["lines"]["FedAvg"] == [0.5, 0.25, 0.06] and list(data) == ["clients", "lambda", "tau"]
    assert "FedAvg goes from 0.50 to 0.06" in picture.alt and "8 facts" in picture.caption
    panels = [axis for axis in drawn[0].axes if axis.get_visible()]
    assert [axis.get_xscale() for axis in panels] == ["linear", "log", "linear"]
    assert [list(line.get_ydata()) for line in panels[0].lines] == [[0.9, 0.9, 0.9], [0.5, 0.25, 0.06]]
