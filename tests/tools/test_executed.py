"""A kept run serves a notebook as long as its code cells are the same."""

import copy
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.declared import Declaration
from tools.execute import Failure, Run
from tools.executed import COLAB, Executed, cell_hashes, code_hash

STOP = Declaration(Path("00_a.ipynb"), "A", (), 1, 2)


def notebook(text="# A", *sources):
    cells = [new_markdown_cell(text), *map(new_code_cell, sources or ("1 + 1", "2 + 2"))]
    return new_notebook(cells=cells)


def ran(one):
    """The notebook as a run leaves it."""
    done = copy.deepcopy(one)
    for number, cell in enumerate((cell for cell in done.cells if cell.cell_type == "code"), start=1):
        cell.outputs, cell.execution_count = [new_output("stream", text=f"output {number}")], number
    return done


def run(scale="lesson", failure=None):
    return Run(STOP, scale, 1.0, 1.0, 0, 0, failure)


@pytest.fixture
def kept(tmp_path) -> Executed:
    store = Executed(tmp_path)
    store.keep(ran(notebook()), run())
    return store


def test_outputs_come_back_under_another_text(kept):
    found = kept.outputs("00_a", notebook("# Another text"), "lesson")
    assert found.cells[0].source == "# Another text"
    assert [cell.outputs[0].text for cell in found.cells[1:]] == ["output 1", "output 2"]
    assert [cell.execution_count for cell in found.cells[1:]] == [1, 2]


@pytest.mark.parametrize("sources", [("1 + 1", "2 + 3"), ("2 + 2", "1 + 1"), ("1 + 1",), ("1 + 12 + 2",)])
def test_other_code_has_no_outputs(kept, sources):
    assert kept.outputs("00_a", notebook("# A", *sources), "lesson") is None


def test_another_scale_or_chapter_has_no_outputs(kept):
    assert kept.outputs("00_a", notebook(), "smoke") is None
    assert kept.outputs("01_b", notebook(), "lesson") is None


def test_a_run_that_failed_leaves_the_earlier_one(kept):
    other = notebook("# A", "1 / 0")
    kept.keep(ran(other), run(failure=Failure(1, "1 / 0", "ZeroDivisionError")))
    assert kept.outputs("00_a", other, "lesson") is None
    assert kept.outputs("00_a", notebook(), "lesson") is not None


def test_colabs_cell_does_not_count(kept):
    one = notebook()
    before = code_hash(one), cell_hashes(one)
    one.cells.insert(1, new_code_cell("install()", metadata={"tags": [COLAB]}))
    assert (code_hash(one), cell_hashes(one)) == before
    found = kept.outputs("00_a", one, "lesson")
    assert [len(cell.outputs) for cell in found.cells[1:]] == [0, 1, 1]


def test_every_cell_has_a_hash_of_its_type_and_source():
    assert cell_hashes(notebook("x", "x"))[0] != cell_hashes(notebook("x", "x"))[1]
    assert len(cell_hashes(notebook())) == 3
