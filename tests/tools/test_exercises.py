"""The exercise notebooks agree with their sources, and errors in a source name the line."""

import re

import nbformat
import pytest

from tools.declared import numbered_notebooks
from tools.exercises import FOLDER, notebook, read_sheet, written
from tools.markdown import to_html

SOURCES = sorted(FOLDER.glob("source/[0-9]*.py"))
TOUR = [path.stem for path in numbered_notebooks(FOLDER.parent)]
SMALL = """\
# %% [markdown]
# # Exercises: halves
#
# One exercise.

# %%
from checks.halves import check_half

# %% [exercise] difficulty=1 importance=2 minutes=10
# ## Half of it
#
# Halve a number.


# %%
def half(x: float) -> float:
    \"\"\"Half of x.\"\"\"
    ### BEGIN SOLUTION
    y = x / 2

    return y
    ### END SOLUTION


# %%
check_half(half)

# %% [hint]
# What is half of $2x$?
"""


def name(path):
    return path.stem


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_the_committed_notebook_is_what_its_source_gives(source):
    committed = (FOLDER / f"{source.stem}.ipynb").read_text(encoding="utf-8")
    assert committed == written(source), "the notebook and its source have drifted: run python -m tools.exercises"


def test_every_notebook_has_a_source_and_every_source_a_chapter():
    assert {source.stem for source in SOURCES} == {path.stem for path in FOLDER.glob("*.ipynb")}
    assert {source.stem for source in SOURCES} == set(TOUR)


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_a_chapter_has_three_exercises_and_leads_back_to_its_page(source):
    sheet = read_sheet(source.read_text(encoding="utf-8"))
    assert len(sheet.exercises) == 3
    assert f"(../{source.stem}.ipynb)" in sheet.opening[0].text
    chapter = nbformat.read(FOLDER.parent / f"{source.stem}.ipynb", as_version=4)
    made = notebook(sheet)
    nbformat.validate(made)
    assert made.metadata.kernelspec == chapter.metadata.kernelspec
    assert made.metadata.language_info == chapter.metadata.language_info


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_its_texts_can_be_read_on_a_page(source):
    """Formulas convert, and what is folded away is Markdown inside the HTML, not text."""
    texts = [
        cell.source for cell in nbformat.reads(written(source), as_version=4).cells if cell.cell_type == "markdown"
    ]
    pages = [to_html(text) for text in texts]
    folded = [page for page in pages if "<details>" in page]
    assert len(folded) == 3
    for page in folded:
        assert page.count("<details>") == page.count("</details>") == 2
        assert re.search(r"<summary>Hint</summary>\s*<p>", page)
        assert re.search(r'<summary>Solution</summary>\s*<div class="highlight">', page)
        assert "```" not in page


def test_stub_solution_head_and_check_come_from_one_source():
    made = notebook(read_sheet(SMALL))
    opening, imports, task, stub, check, folded = made.cells
    assert opening.source == "# Exercises: halves\n\nOne exercise."
    assert imports.source == "from checks.halves import check_half"
    head = "*Difficulty 1 of 5, importance 2 of 5, about 10 minutes.*"
    assert task.source == f"## 1. Half of it\n\n{head}\n\nHalve a number."
    assert stub.source == 'def half(x: float) -> float:\n    """Half of x."""\n    raise NotImplementedError'
    assert check.source == "check_half(half)" and check.metadata.tags == ["raises-exception"]
    assert "What is half of $2x$?" in folded.source
    solution = 'def half(x: float) -> float:\n    """Half of x."""\n    y = x / 2\n\n    return y'
    assert f"```python\n{solution}\n```" in folded.source
    assert [cell.id for cell in made.cells] == ["c00", "c01", "c02", "c03", "c04", "c05"]
    assert all("SOLUTION" not in cell.source for cell in made.cells)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# %% [markdown]", "import torch\n# %% [markdown]", "line 1: a source begins with a cell"),
        ("# %% [hint]", "# %% [clue]", r"line 28: '# %% \[clue\]' begins no cell"),
        ("# %% [hint]", "# %%hint", "line 28: .* begins no cell"),
        ("difficulty=1 ", "", "line 9: an exercise says difficulty, importance, minutes"),
        ("difficulty=1", "difficulty=hard", "line 9: an exercise says difficulty, importance, minutes"),
        ("difficulty=1", "difficulty", "line 9: an exercise says difficulty, importance, minutes"),
        ("difficulty=1", "difficulty=6", "line 9: difficulty is 6: give 1 to 5"),
        ("minutes=10", "minutes=90", "line 9: minutes is 90: give 5 to 30"),
        ("# ## Half of it", "# Half of it", "line 9: an exercise begins with its title"),
        ("    ### END SOLUTION\n", "", "line 15: mark one solution"),
        ("\n# %%\ncheck_half(half)\n", "", "line 9: an exercise is its text, the function, the check and a hint"),
        (
            "# %% [exercise] difficulty=1 importance=2 minutes=10",
            "# %% [hint]",
            "line 9: a hint belongs to an exercise",
        ),
    ],
)
def test_a_source_that_breaks_the_format_is_told_where(old, new, fault):
    assert SMALL.count(old) == 1
    with pytest.raises(ValueError, match=fault):
        read_sheet(SMALL.replace(old, new))


def test_a_fault_names_the_file(tmp_path):
    source = tmp_path / "00_halves.py"
    source.write_text(SMALL.replace("minutes=10", "minutes=0"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^00_halves\.py, line 9: minutes is 0"):
        written(source)
