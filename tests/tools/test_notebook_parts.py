"""The small parts of the runner: declarations, claims, outputs, the table."""

from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.claims import asserted_claims
from tools.declared import Declaration, declaration, numbered_notebooks, read_notebook
from tools.execute import Failure, Run, Unheld
from tools.memory import PeakMemory
from tools.outputs import WIDGET, last_state, readable_outputs
from tools.pages import faults, write_whole
from tools.report import errors, table, warnings
from tools.tour import exercises, stops

STOP = Declaration(Path("notebooks/02_editing.ipynb"), "Editing", (), minutes=4, memory_gb=3)
GOOD = Run(STOP, "lesson", minutes=3.9, peak_gb=2.9, figures=2, claims=7, failure=None)


def notebook_with(metadata: dict, *cells) -> nbformat.NotebookNode:
    return new_notebook(metadata=metadata, cells=list(cells))


def test_a_notebook_declares_its_budget_its_title_and_its_goals():
    cells = [
        new_markdown_cell("# Editing\n\nAfter this you can\n\n- write a fact,\n  twice\n- undo it"),
        new_code_cell("1"),
        new_markdown_cell("- not a goal"),
    ]
    found = declaration(STOP.path, notebook_with({"fleke": {"minutes": 4, "memory_gb": 3}}, *cells))
    assert found == replace(STOP, goals=("write a fact, twice", "undo it"))
    assert found.name == "02_editing"


@pytest.mark.parametrize(
    "budget", [{}, {"minutes": 4}, {"minutes": "4", "memory_gb": 3}, {"minutes": 4, "memory_gb": 0}]
)
def test_a_missing_budget_is_named_with_its_remedy(budget):
    with pytest.raises(ValueError, match=r"02_editing\.ipynb declares no (minutes|memory_gb): its metadata must"):
        declaration(STOP.path, notebook_with({"fleke": budget}))


def test_only_numbered_notebooks_are_on_the_tour(tmp_path):
    with pytest.raises(ValueError, match="holds no notebook named like"):
        numbered_notebooks(tmp_path)
    for name in ("01_b.ipynb", "00_a.ipynb", "scratch.ipynb"):
        (tmp_path / name).touch()
    assert [path.name for path in numbered_notebooks(tmp_path)] == ["00_a.ipynb", "01_b.ipynb"]
    with pytest.raises(ValueError, match="is not a notebook"):
        read_notebook(tmp_path / "00_a.ipynb")


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("assert x\nassert y, 'z'", 2),
        ("%matplotlib inline\nassert x", 1),
        ("# assert x", 0),
        ("%%bash\nassert", 0),
        ("(", 0),
    ],
)
def test_claims_are_assert_statements(source, count):
    assert asserted_claims(source) == count


def test_peak_memory_sees_what_this_process_holds():
    import os

    with PeakMemory(os.getpid(), interval=0.01) as peak:
        held = bytearray(200_000_000)
        held[::4096] = b"x" * len(held[::4096])
    assert peak.gb > 0.2
    assert PeakMemory(2**22 + 1).gb == 0


def test_progress_lines_show_their_last_state_and_widgets_go():
    assert last_state("0%\r50%\r100%\nnext\r\n") == "100%\nnext\n"
    cell = new_code_cell("x")
    cell.outputs = [
        new_output("stream", name="stderr", text="1/2\r2/2"),
        new_output("display_data", data={WIDGET: {}, "text/plain": "HBox()"}),
    ]
    tidy = readable_outputs(notebook_with({}, cell)).cells[0].outputs
    assert [output.text for output in tidy] == ["2/2"]
    assert len(cell.outputs) == 2, "the executed notebook itself stays as it was"


def test_warnings_do_not_show_where_they_were_printed():
    """Otherwise a page would name a machine, and differ in every run."""
    printed = "/tmp/ipykernel_12/34567.py:5: UserWarning: a\n/home/me/a b/lib/site-packages/m/x.py:9: Old: b\n"
    cell = new_code_cell("x", outputs=[new_output("stream", name="stderr", text=printed + "see /etc/hosts")])
    (tidy,) = readable_outputs(notebook_with({}, cell)).cells[0].outputs
    assert tidy.text == "line 5 of this cell: UserWarning: a\nm/x.py:9: Old: b\nsee /etc/hosts"


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<script src=//cdn.example/x.js></script>",
        '<link rel="stylesheet" href="http://example/x.css">',
        "<style>a { background: url(https://example/x.png) }</style>",
        '<style>@import "https://example/x.css";</style>',
        '<img src="data:image/png;base64,AAAA">',
        '<img src="data:image/png;base64,AAAA" alt="No description has been provided for this image">',
    ],
)
def test_a_page_that_loads_from_elsewhere_or_shows_a_mute_picture_has_a_fault(html):
    assert len(faults(html)) == 1


def test_links_to_papers_and_described_pictures_are_no_faults():
    assert not faults(
        '<a href="https://arxiv.org/abs/2210.07229">MEMIT</a><img alt="a line" src="data:image/png;base64,A">'
    )


def test_a_file_is_replaced_whole(tmp_path):
    target = tmp_path / "site" / "index.html"
    write_whole(target, "old")
    write_whole(target, "new")
    assert target.read_text(encoding="utf-8") == "new"
    assert [path.name for path in target.parent.iterdir()] == ["index.html"]


def test_within_its_budget_a_run_has_nothing_to_say():
    assert not errors(GOOD)
    assert not warnings(GOOD)


def test_too_long_and_too_large_are_said_and_fail_nothing():
    slow, large = replace(GOOD, minutes=6.1), replace(GOOD, peak_gb=3.1)
    assert warnings(slow) == ["02_editing took 6.1 minutes, where it declares 4; its results hold."]
    assert warnings(large) == ["02_editing took 3.1 GB, where it declares 3; its results hold."]
    assert not errors(slow) and not errors(large)
    assert "over its minutes" in table([slow])
    assert "over its memory" in table([large])


def test_the_budget_binds_at_lesson_scale_only():
    assert not warnings(replace(GOOD, scale="full", peak_gb=30))
    assert not warnings(replace(GOOD, scale="full", minutes=300))


def test_a_failure_is_named_in_the_table_and_in_a_sentence():
    failed = replace(GOOD, failure=Failure(14, "edit = memit(lm)", "ValueError: no subject"))
    assert errors(failed) == ["02_editing stopped at cell 14 (edit = memit(lm)): ValueError: no subject"]
    assert "FAILED at cell 14" in table([GOOD, failed]).splitlines()[2]


def test_chapters_06_and_06b_have_their_own_questions_and_exercises():
    folder = Path(__file__).parents[2] / "notebooks"
    tour = [declaration(path, read_notebook(path)) for path in numbered_notebooks(folder)]
    places = {stop.number: stop for stop in stops(tour, exercises(folder))}
    for chapter in ("06_federated_unlearning", "06b_withdrawal"):
        stop = places[chapter.partition("_")[0]]
        assert stop.chapter.name == chapter and stop.question
        assert [page.source.stem for page in stop.exercises] == [chapter]
    assert places["06"].question != places["06b"].question


def test_claims_of_a_cell_that_failed_count_on_neither_side():
    failed = replace(GOOD, failure=Failure(14, "edit = memit(lm)", "ValueError: no subject"), claims=0, model="tiny")
    failed = replace(failed, unheld=(Unheld(14, "a > b", measured=True),))
    assert " 0 of 0 " in table([failed])
    assert " 6 of 7" in table([replace(failed, failure=None, claims=7)])
