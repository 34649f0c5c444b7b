"""The whole runner on small notebooks: pages, index, table, failures, budgets, formulas, nothing from another host."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.pages import faults
from tools.run_notebooks import main

OPENING = "# {title}\n\n- count to *two*\n\nWe solve $dW_l = T_l (\\lambda C_l + S_l)^{{-1}}$."
pytestmark = pytest.mark.slow  # each test starts a kernel
PICTURE = """\
import os, pathlib
(pathlib.Path(os.environ["FLEKE_FIGURES"]) / "line.png").write_bytes(b"png")
from IPython.display import HTML
HTML('<img alt="a line" src="data:image/png;base64,AAAA">')"""


def save(folder: Path, name: str, *sources: str, memory_gb: float = 2) -> Path:
    """Write a small notebook that opens as the course's do."""
    cells = [new_markdown_cell(OPENING.format(title=name)), *map(new_code_cell, sources)]
    budget = {"minutes": 1, "memory_gb": memory_gb}
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"fleke": budget}), path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty tour under a path with a space; nothing of the caller's environment reaches the runner."""
    monkeypatch.delenv("FLEKE_FIGURES", raising=False)
    monkeypatch.delenv("FLEKE_MODEL", raising=False)
    monkeypatch.setenv("FLEKE_SCALE", "lesson")
    place = tmp_path / "a tour"
    place.mkdir()
    return place


def run(folder: Path, *notebooks: Path) -> int:
    """Run the tour in a folder; what it builds lies beside it."""
    return main([*map(str, notebooks), "--folder", str(folder), "--build", str(folder.parent / "build")])


def built(folder: Path, name: str) -> str:
    """The text of a page."""
    return (folder.parent / "build" / "site" / name).read_text(encoding="utf-8")


def test_a_good_notebook_gives_a_page_a_figure_and_a_row(folder, capsys):
    save(folder, "00_good", "x = 2\nassert x == 2", PICTURE, "assert x\nx")
    assert run(folder) == 0

    shown = capsys.readouterr()
    name, minutes, declared, _, _, figures, claims = shown.out.splitlines()[2].split()
    assert (name, declared, figures, claims) == ("00_good", "1", "1", "2")
    assert float(minutes) < 1
    assert "notebook 1 of 1: 00_good; 0 minutes so far, about 1 to go" in shown.err.splitlines()
    assert shown.out.rstrip().endswith("index.html")

    assert (folder.parent / "build" / "executed" / "lesson" / "00_good.ipynb").exists()
    page = built(folder, "00_good.html")
    assert "<math" in page
    assert "$dW" not in page
    assert 'name="viewport"' in page
    assert not faults(page)
    index = built(folder, "index.html")
    assert 'href="00_good.html"' in index
    assert "<li>count to <em>two</em></li>" in index
    assert not faults(index)
    assert (folder.parent / "build" / "figures" / "line.png").exists()


def test_a_failing_notebook_names_its_cell_and_the_others_still_run(folder, capsys):
    save(folder, "00_bad", "x = 0\nassert x == 0", "\n# divide\n1 / x", "print('never')")
    save(folder, "01_next", "assert True")
    assert run(folder) == 1

    out, err = capsys.readouterr()
    (first,) = [line for line in err.splitlines() if "can be read while the others run" in line]
    assert first.startswith("00_bad is finished") and first.endswith("00_bad.html")
    assert "error: 00_bad stopped at cell 2 (# divide): ZeroDivisionError: division by zero" in out
    assert "01_next" in out
    page = built(folder, "00_bad.html")
    assert "<title>Failed: 00_bad</title>" in page
    assert "This run stopped at cell 2" in page
    assert "never</pre>" not in page
    assert "stopped at cell 2" in built(folder, "index.html")


def test_a_dead_kernel_is_a_failure_of_its_cell(folder, capsys):
    save(folder, "00_dies", "import os\nos._exit(1)")
    assert run(folder) == 1
    assert "00_dies stopped at cell 1 (import os): the kernel died" in capsys.readouterr().out


def test_more_memory_than_declared_is_reported_and_fails_nothing(folder, capsys):
    save(folder, "00_large", "assert True", memory_gb=0.001)
    assert run(folder) == 0
    shown = capsys.readouterr().out
    assert "over its memory" in shown.splitlines()[2]
    assert "warning: 00_large took" in shown and "error:" not in shown


ANOTHER = "from fleke_lib.course.held import report_instead\nreport_instead('tiny')"


def tagged(path: Path, cell: int, *tags: str) -> Path:
    """Tag a code cell, counted from 1."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[cell].metadata["tags"] = list(tags)
    nbformat.write(notebook, path)
    return path


def test_on_another_model_claims_about_the_default_one_are_listed_and_fail_nothing(folder, capsys, monkeypatch):
    monkeypatch.setenv("FLEKE_MODEL", "somebody/tiny")
    tagged(save(folder, "00_a", ANOTHER, "x = 1\nassert x > 1\nassert x == 1\ny = 2\ny"), 2, "measured")
    path = save(folder, "07_b", "assert True")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["fleke"]["model"] = "default"
    nbformat.write(notebook, path)
    assert run(folder) == 0
    shown = capsys.readouterr()
    assert "scale: lesson, model: tiny" in shown.err
    assert "00_a, not held on tiny: cell 2: x > 1" in shown.out.splitlines()
    assert "1 of 2" in shown.out.splitlines()[2] and "07_b" not in shown.out
    page = (folder.parent / "build" / "models" / "tiny" / "site" / "00_a.html").read_text(encoding="utf-8")
    assert "1 of 2 asserted claims held on tiny." in page
    assert "Not held on tiny: <code>x &gt; 1</code>" in page
    assert not (folder.parent / "build" / "site").exists()


def test_a_claim_that_must_hold_on_every_model_fails_the_run(folder, capsys, monkeypatch):
    monkeypatch.setenv("FLEKE_MODEL", "somebody/tiny")
    save(folder, "00_a", ANOTHER, "assert 1 == 2\n3")
    assert run(folder) == 1
    said = "error: 00_a, cell 2: 1 == 2: this must hold on every model."
    assert said in capsys.readouterr().out.splitlines()


def test_only_what_is_named_runs_and_earlier_pages_stay_linked(folder, capsys):
    first, second = save(folder, "00_a", "assert True"), save(folder, "01_b", "assert True")
    assert run(folder, first) == 0
    assert "not run yet" in built(folder, "index.html")
    assert run(folder, second) == 0
    assert "page of an earlier run" in built(folder, "index.html")
    assert 'href="00_a.html"' in built(folder, "01_b.html")


def test_a_wrong_call_is_one_sentence_and_runs_nothing(folder, capsys):
    assert run(folder) == 2
    save(folder, "00_a", "assert True")
    assert run(folder, Path("99_z.ipynb")) == 2
    assert "99_z.ipynb is not a notebook of the tour: name one of 00_a." in capsys.readouterr().err
    assert not (folder.parent / "build").exists()


def test_a_formula_that_does_not_convert_fails_the_page_by_name(folder, capsys):
    path = save(folder, "00_formula", "assert True")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(new_markdown_cell(r"$\nonsense{x}$"))
    nbformat.write(notebook, path)
    assert run(folder) == 1
    assert r"00_formula has no page: the formula '\\nonsense{x}' uses \nonsense" in capsys.readouterr().out
