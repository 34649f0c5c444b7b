"""The catalogue lists what a build writes, and a single figure is drawn by its notebook."""

import json
from xml.etree import ElementTree

import pytest

from fleke_lib.course.scale import Scale
from fleke_lib.figures.catalogue import catalogue
from fleke_lib.reproduce import figures
from fleke_lib.reproduce.__main__ import main

# The names in build/figures after `make run` at lesson scale, which no source was read for.
BUILT = {
    "00_start_here": {"00-block", "00-one-edit"},
    "01_locating_knowledge": {"01-average-heatmaps", "01-heatmaps", "01-mediation", "01-profile", "01-runs"},
    "02_editing": {"02-methods", "02-one-mkv", "02-tokens-for-c"},
    "03_sharing_mkvs": {"03-compression", "03-redundancy", "03-slot", "03-sums", "03-vectors-only", "03-wire"},
    "04_clustered_retrieval": {"04-clusters", "04-policies", "04-similarities"},
    "05_reediting": {"05-kinds-of-facts", "05-methods", "05-over-slots", "05-work"},
    "06_federated_unlearning": {"06-distances", "06-four-steps", "06-membership", "06-privacy"},
    "06b_withdrawal": {"06b-forgotten", "06b-misses", "06b-registry-bytes", "06b-times"},
}
DRAW = 'editing.losses([1, 2], [3.0, 1.0], [0.1, 0.9], 0.05, "{}")'


def notebook(folder, *cells: str, name: str = "00_trial.ipynb"):
    """A notebook of these code cells, behind one of text."""
    made = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    text = {"cell_type": "markdown", "source": ["# A trial"]}
    (folder / name).write_text(json.dumps({"cells": [text, *made], "nbformat": 4, "nbformat_minor": 5}))
    return folder


@pytest.mark.parametrize("chapter", BUILT)
def test_the_catalogue_names_what_a_complete_build_wrote(chapter):
    assert {name for name, entry in catalogue().items() if entry.chapter == chapter} == BUILT[chapter]


def test_every_figure_has_a_caption_and_a_code_cell_that_draws_it():
    for entry in catalogue().values():
        cell = json.loads(entry.notebook.read_text(encoding="utf-8"))["cells"][entry.cell]
        assert cell["cell_type"] == "code" and len(entry.caption) > 20


def test_a_name_is_a_keyword_an_argument_or_a_default(tmp_path):
    cells = [
        "from fleke_lib.figures import federation as pictures, editing",
        "pictures.methods(found)",
        'pictures.methods(found, ("top1",), name="00-kinds")',
        DRAW.format("00-losses"),
        "from fleke_lib.figures.sharing import wire",
        "def later():\n    return wire(costs)",
        "pictures = {}\npictures.get(editing.METRICS)",
    ]
    found = catalogue(notebook(tmp_path, *cells))
    assert {name: entry.cell for name, entry in found.items()} == {
        "05-methods": 2,
        "00-kinds": 3,
        "00-losses": 4,
        "03-wire": 6,
    }


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["from fleke_lib.figures import editing", DRAW.format("x").replace('"x"', "name")], "as a plain string"),
        (["%matplotlib inline"], "cell 1 of 00_trial.ipynb is not plain Python"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, cells, said):
    with pytest.raises(ValueError, match=said):
        catalogue(notebook(tmp_path, *cells))


def test_without_a_checkout_one_sentence_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="run this from a checkout"):
        catalogue(tmp_path)


def test_the_list_has_a_line_a_figure(capsys):
    assert main(["figures"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(catalogue())
    assert [line.split()[:2] for line in lines if "05-over-slots" in line] == [["05-over-slots", "05_reediting"]]


def test_an_unknown_name_is_answered_with_the_nearest(capsys):
    assert main(["figures", "--only", "05-method"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and "05-methods" in said


@pytest.mark.slow
def test_cells_before_it_run_and_later_ones_do_not_and_only_its_files_are_kept(tmp_path):
    cells = [
        "from fleke_lib.figures import editing",
        DRAW.format("00-first"),
        "from fleke_lib.course.scale import scale\nassert scale().name == 'smoke'",
        DRAW.format("00-second"),
        "raise RuntimeError('a later cell')",
    ]
    entry = catalogue(notebook(tmp_path, *cells))["00-second"]
    made = figures.make(entry, tmp_path / "to", Scale("smoke"))
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == sorted(path.name for path in made)
    assert {path.name for path in made} == {"00-second.png", "00-second.svg", "00-second.json"}
    words = json.loads((tmp_path / "to" / "00-second.json").read_text())
    assert words["data"]["loss"] == [3.0, 1.0]
    drawing = "".join(ElementTree.parse(tmp_path / "to" / "00-second.svg").getroot().itertext())
    assert words["alt"] in drawing and words["caption"] in drawing


@pytest.mark.slow
def test_a_cell_that_fails_leaves_nothing(tmp_path, capfd):
    cells = ["from fleke_lib.figures import editing", DRAW.format("00-first"), "1 / 0", DRAW.format("00-second")]
    entry = catalogue(notebook(tmp_path, *cells))["00-second"]
    with pytest.raises(RuntimeError, match="failed before 00-second was drawn"):
        figures.make(entry, tmp_path / "to", Scale("smoke"))
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert not (tmp_path / "to").exists()


@pytest.mark.model
@pytest.mark.slow
def test_the_first_figure_of_the_course_is_made_by_its_notebook(tmp_path):
    assert main(["figures", "--only", "00-one-edit", "--to", str(tmp_path), "--scale", "smoke"]) == 0
    found = json.loads((tmp_path / "00-one-edit.json").read_text())
    (true, new), (true_after, new_after) = found["data"]["before"][0], found["data"]["after"][0]
    assert true > new and new_after > true_after  # France's capital, before and after
    assert (tmp_path / "00-one-edit.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "00-one-edit.svg").getroot().tag.endswith("svg")
