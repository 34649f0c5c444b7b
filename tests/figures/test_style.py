"""A picture is an image, words and numbers, written together or not at all."""

import json

import numpy as np
import pytest
import torch

from fleke_lib.figures import style


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(style.VARIABLE, str(tmp_path / "pictures"))
    return tmp_path / "pictures"


def drawn(xlabel="Layer", ylabel="Probability (0 to 1)", **finish):
    with style.canvas() as (figure, axes):
        axes.plot([0, 1, 2], [0.1, 0.2, 0.3])
        axes.set(xlabel=xlabel, ylabel=ylabel)
    words = {"name": "a-line", "caption": "A line <rises>.", "alt": 'A "rising" line.', "data": {"y": [0.1, 0.2, 0.3]}}
    return style.finish(figure, **(words | finish))


def test_image_and_numbers_lie_beside_each_other(folder):
    picture = drawn()
    assert (folder / "a-line.png").read_bytes() == picture.png
    assert picture.png.startswith(b"\x89PNG")
    written = json.loads((folder / "a-line.json").read_text())
    assert written == {"name": "a-line", "caption": picture.caption, "alt": picture.alt, "data": picture.data}
    assert sorted(path.name for path in folder.iterdir()) == ["a-line.json", "a-line.png"]


def test_the_same_figure_gives_the_same_bytes():
    assert drawn().png == drawn().png


def test_html_escapes_what_it_shows():
    page = drawn()._repr_html_()
    assert 'alt="A &quot;rising&quot; line."' in page
    assert "<figcaption>A line &lt;rises&gt;.</figcaption>" in page
    assert "data:image/png;base64," in page


def test_repr_is_short():
    assert len(repr(drawn())) < 200


def test_numbers_become_plain():
    tensor, array = torch.tensor([1.0, float("nan")]), np.array([1 / 3], dtype=np.float32)
    numbers = style.plain({"t": tensor, 2: array, "n": np.int64(3), "r": range(2), "i": 2**60, "s": "text", "b": True})
    assert numbers == {"t": [1.0, None], "2": [0.333333], "n": 3, "r": [0, 1], "i": 2**60, "s": "text", "b": True}


@pytest.mark.parametrize("wrong", [{"caption": " "}, {"alt": ""}])
def test_words_are_required(wrong):
    with pytest.raises(ValueError, match="say in words"):
        drawn(**wrong)


@pytest.mark.parametrize("name", ["A line", "../a", "a--b", ""])
def test_names_are_file_names(name):
    with pytest.raises(ValueError, match="small letters"):
        drawn(name=name)


@pytest.mark.parametrize("axis", ["xlabel", "ylabel"])
def test_an_axis_without_a_label_is_refused_and_nothing_is_written(axis, folder):
    with pytest.raises(ValueError, match="axis without a label"):
        drawn(**{axis: ""})
    assert not folder.exists()


def test_labels_of_the_whole_figure_and_of_shared_axes_count():
    with style.canvas(columns=2, sharey=True) as (figure, axes):
        for ax in axes:
            ax.imshow([[0.0, 1.0]])
            ax.set_xlabel("Layer")
        axes[0].set_ylabel("Token")
        figure.colorbar(ax.images[0], ax=axes, label="Probability (0 to 1)")
    style.finish(figure, "shared", "Caption.", "Alt.", {})


def test_the_style_ends_with_the_block():
    import matplotlib as mpl

    before = {name: mpl.rcParams[name] for name in style.STYLE}
    drawn()
    assert {name: mpl.rcParams[name] for name in style.STYLE} == before


@pytest.mark.slow
def test_pyplot_is_not_needed():
    import subprocess
    import sys

    code = "import sys, fleke_lib.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_default_folder_is_in_the_repository(monkeypatch):
    monkeypatch.delenv(style.VARIABLE)
    assert style.folder().parts[-2:] == ("build", "figures")
