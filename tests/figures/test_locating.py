"""The figures of chapter 01 count layers in whole numbers, however few layers a model has."""

import pytest
import torch

from fleke_lib.evaluation.resampling import Estimate
from fleke_lib.figures import locating
from fleke_lib.locate.averages import CLASSES, TraceAverage


def average(layers: int, kind: str = "hidden") -> TraceAverage:
    mean = torch.rand(len(CLASSES), layers, generator=torch.Generator().manual_seed(layers))
    counts = tuple(3 for _ in CLASSES)
    return TraceAverage(kind, 1, "", 3, counts, mean, mean - 0.1, mean + 0.1, Estimate(0.5, 0.4, 0.6))


@pytest.mark.parametrize("layers", [6, 12, 18, 30])
def test_layers_are_whole_numbers(layers, monkeypatch, tmp_path):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path))
    finish, shown = locating.finish, []

    def seen(figure, name, *words):
        figure.canvas.draw()
        shown.extend(ax for ax in figure.axes if ax.get_xlabel() == "Layer (from 0)")
        return finish(figure, name, *words)

    monkeypatch.setattr(locating, "finish", seen)
    three = [average(layers, kind) for kind in locating.PARTS]
    locating.profile(three)
    locating.average_heatmaps(three)
    locating.mediation(three[0], three[1], three[0].row("last subject"), (2, 4), (1, 3))
    assert len(shown) == 2 * len(three) + 1
    for ax in shown:
        ticks = [tick for tick in ax.get_xticks() if -0.5 <= tick <= layers - 0.5]
        assert len(ticks) > 2 and all(tick == round(tick) for tick in ticks)
