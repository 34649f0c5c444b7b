"""Links to Binder and Colab, and Colab's cell, follow from one line of pyproject.toml."""

import subprocess
import sys
import tempfile
import types
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.address import MISSING, Address, with_colab
from tools.chapter_table import table
from tools.declared import Declaration, declaration, goals_of, numbered_notebooks, read_notebook
from tools.executed import cell_hashes, code_hash

ROOT = Path(__file__).parents[2]
HERE = Address("https://github.com/somebody/fleke", "1.2.3")
NOWHERE = Address("", "1.2.3")


def notebook():
    return new_notebook(cells=[new_markdown_cell("# A\n\n- count"), new_code_cell("x = 1"), new_code_cell("x")])


def test_the_address_is_read_from_one_line(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\nversion = "1.2.3"\n[project.urls]\nRepository = "https://github.com/somebody/fleke/"\n')
    assert Address.of(path) == HERE
    path.write_text('[project]\nversion = "1.2.3"\n')
    assert Address.of(path) == NOWHERE


def test_links_name_the_tag_of_the_version():
    assert HERE.colab("notebooks/a.ipynb") == (
        "https://colab.research.google.com/github/somebody/fleke/blob/v1.2.3/notebooks/a.ipynb"
    )
    assert HERE.binder("notebooks/a.ipynb") == (
        "https://mybinder.org/v2/gh/somebody/fleke/v1.2.3?urlpath=lab%2Ftree%2Fnotebooks%2Fa.ipynb"
    )
    elsewhere = Address("https://codeberg.org/somebody/fleke", "1.2.3")
    assert elsewhere.colab("a") is None
    assert elsewhere.binder("a").startswith(
        "https://mybinder.org/v2/git/https%3A%2F%2Fcodeberg.org%2Fsomebody%2Ffleke/v"
    )


def test_without_an_address_there_are_neither_links_nor_a_cell():
    one = notebook()
    assert NOWHERE.colab("a") is None and NOWHERE.binder("a") is None
    assert with_colab(one, NOWHERE) == one
    assert with_colab(with_colab(one, HERE), NOWHERE) == one


def test_the_cell_is_the_first_code_cell_and_there_once():
    one = notebook()
    made = with_colab(with_colab(one, HERE), HERE)
    assert [cell.cell_type for cell in made.cells] == ["markdown", "code", "code", "code"]
    assert '"--branch=v1.2.3", "https://github.com/somebody/fleke"' in made.cells[1].source
    assert goals_of(made) == goals_of(one) == ("count",)
    assert (code_hash(made), cell_hashes(made)) == (code_hash(one), cell_hashes(one))
    nbformat.validate(made)


def test_the_cell_installs_in_colab_and_does_nothing_elsewhere(monkeypatch, tmp_path):
    called = []

    def run(command, check):
        called.append(command)
        if command[0] == "git":
            (Path(command[-1]) / "notebooks").mkdir(parents=True)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    cell = with_colab(notebook(), HERE).cells[1].source
    exec(cell, {})
    assert called == []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    exec(cell, {})
    course, url = str(tmp_path / "fleke-v1.2.3"), "https://github.com/somebody/fleke"
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    installed = [[*pip, ".."], [*pip, "--no-deps", "--no-compile", "-r", "../requirements-data.lock"]]
    assert called == [["git", "clone", "--quiet", "--depth=1", "--branch=v1.2.3", url, course], *installed]
    assert Path.cwd() == tmp_path / "fleke-v1.2.3" / "notebooks"  # so `..` is the checkout, for chapter 09
    called.clear()
    exec(cell, {})
    assert called == installed


def test_notebooks_and_readme_are_as_the_address_says():
    address, paths = Address.of(ROOT / "pyproject.toml"), numbered_notebooks(ROOT / "notebooks")
    for path in paths:
        found = read_notebook(path)
        assert with_colab(found, address) == found, f"{path.name} has another cell for Colab: call make publish."
    tour = [declaration(path, read_notebook(path)) for path in paths]
    made = table(tour, ROOT / "read", address, ROOT)
    assert made in (ROOT / "README.md").read_text(encoding="utf-8"), "README's chapters are others: call make publish."


def test_the_public_address_is_known():
    address = Address.of(ROOT / "pyproject.toml")
    if not address.url:
        pytest.xfail(MISSING)
    assert address.url.startswith("https://")


def test_the_table_links_to_binder_only_what_fits_into_its_memory():
    tour = [
        Declaration(ROOT / "notebooks" / f"{name}.ipynb", name, (), 1, memory_gb)
        for name, memory_gb in (("00_start_here", 2), ("05_reediting", 5))
    ]
    first, second = table(tour, ROOT / "read", HERE, ROOT).splitlines()[2:]
    assert "[Binder](https://mybinder.org" in first and "[Colab](https://colab" in first
    assert "Binder" not in second and "[Colab](https://colab" in second
    assert "Binder" not in table(tour, ROOT / "read", NOWHERE, ROOT)
