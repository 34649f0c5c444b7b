"""The drawings: the toy's numbers are the ridge regression's, and the words name what is drawn."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fleke_lib.figures import ideas

KEYS, SHARES, RIDGE = [[1.0, 0.4], [0.3, 1.0]], [1.0, 1.0], 0.02
DRAWN = {
    "00-block": lambda: ideas.block([1, 3], 6),
    "01-runs": ideas.runs,
    "03-sums": lambda: ideas.sums(KEYS, SHARES, RIDGE),
    "03-slot": ideas.slot,
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", DRAWN)
def test_a_drawing_has_a_name_words_and_a_picture_with_more_than_lines(folder, name):
    picture = DRAWN[name]()
    assert picture.name == name and (folder / f"{name}.png").exists()
    assert json.loads((folder / f"{name}.json").read_text())["alt"] == picture.alt
    assert len(picture.alt.split()) > 30 and len(picture.caption.split()) > 20


def test_the_block_names_the_models_own_layers():
    picture = ideas.block([1, 3], 6)
    assert "layers 1, 3 hatched" in picture.alt and "a stack of 6 layers" in picture.alt
    assert picture.data == {"layers": [1, 3], "n_layers": 6}


def fitted(*facts: int) -> np.ndarray:
    """The ridge regression of these facts as least squares on the keys with the penalty's rows below them."""
    rows = np.concatenate([np.array(KEYS)[list(facts)], np.sqrt(RIDGE) * np.eye(2)])
    return np.linalg.lstsq(rows, np.concatenate([np.array(SHARES)[list(facts)], np.zeros(2)]), rcond=None)[0]


def test_the_toys_edits_are_ridge_regressions_and_a_withdrawal_is_exact():
    points = ideas.sums(KEYS, SHARES, RIDGE).data["points"]
    for label, facts in (("A alone", (0,)), ("B alone", (1,)), ("from the sums", (0, 1)), ("B withdrawn", (0,))):
        assert np.allclose(points[label], fitted(*facts), atol=1e-5), label
    assert np.allclose(points["mean of both"], (fitted(0) + fitted(1)) / 2, atol=1e-5)


def test_the_toy_shows_what_its_caption_says():
    points = ideas.sums(KEYS, SHARES, RIDGE).data["points"]

    def missed(label: str) -> np.ndarray:
        return np.abs(np.array(KEYS) @ points[label] - SHARES)

    assert missed("from the sums").max() < 0.05
    assert missed("A alone")[0] < 0.05 and missed("B alone")[1] < 0.05
    assert missed("mean of both").min() > 0.1


def test_the_states_of_the_runs_differ_without_colour():
    image = Image.open(BytesIO(ideas.runs().png)).convert("RGB")
    assert all(r == g == b for _, (r, g, b) in image.getcolors(maxcolors=100_000))
