"""Pages to read: made from kept runs, the same twice, stale when a cell changes, small, and with links that resolve."""

import base64
import re
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageColor

from fleke_lib.figures.style import CYCLE
from tools.chapter_table import BEGIN, END
from tools.declared import declaration, read_notebook
from tools.execute import Run
from tools.executed import Executed
from tools.publish import main
from tools.reading import fenced, small, stale

OPENING = """# First

- count to *two*

| chapter | question |
|---|---|
| **00 first** | can it be counted? |
| [01 second](01_second.ipynb) | what follows? |
"""
TEXT = r"""See $\Delta = T(\lambda C + S)^{-1}$, `$HOME`, [there](01_second.ipynb#What-it-is,-then),
[words](../docs/words.md#a).

$$\begin{aligned} a &= b \end{aligned}$$

```
$not$ a formula, [nor](a link)
```
"""


def png() -> bytes:
    made = BytesIO()
    Image.radial_gradient("L").convert("RGB").save(made, "png")
    return made.getvalue()


def figure() -> nbformat.NotebookNode:
    image = base64.b64encode(png()).decode()
    html = f'<figure><img alt="a [b] &quot;c&quot;" src="data:image/png;base64,{image}"><figcaption>A *b*.</figcaption>'
    return new_output("execute_result", {"text/html": html, "text/plain": "Picture(name='00-line', caption='A *b*.')"})


def table() -> nbformat.NotebookNode:
    return new_output("display_data", {"text/html": "<table>\n\n    <tr><td>1</td></tr>\n</table>", "text/plain": "1"})


OUTPUTS = {
    "00_first": [[figure()], [table(), new_output("stream", text="```\nprinted\n")]],
    "01_second": [[new_output("execute_result", {"text/plain": "{'a': 1}"})], []],
}


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A repository with a tour of two chapters, each with a kept run at lesson scale."""
    monkeypatch.delenv("FLEKE_SCALE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "words.md").touch()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "README.md").write_text(f"# A\n\n{BEGIN}\n{END}\n\nafter\n")
    save("00_first", OPENING, TEXT)
    save("01_second", "# Second\n\n- dial\n\n## What it is, then")
    for name in OUTPUTS:
        keep(name)
    return tmp_path


def save(name: str, *texts: str, sources: tuple[str, str] = ("x = 1", "x")) -> None:
    cells = [*map(new_markdown_cell, texts), *map(new_code_cell, sources)]
    for i, cell in enumerate(cells):
        cell["id"] = f"{name}-{i}"  # nbformat draws one at random
    Path("notebooks").mkdir(exist_ok=True)
    budget = {"minutes": 1, "memory_gb": 3}
    nbformat.write(new_notebook(cells=cells, metadata={"fleke": budget}), f"notebooks/{name}.ipynb")


def keep(name: str, scale: str = "lesson") -> None:
    path = Path(f"notebooks/{name}.ipynb")
    notebook = read_notebook(path)
    for cell, outputs in zip([c for c in notebook.cells if c.cell_type == "code"], OUTPUTS[name], strict=True):
        cell.outputs = outputs
    run = Run(declaration(path, notebook), scale, 1.0, 1.0, 0, 0, None)
    Executed(Path("build/executed")).keep(notebook, run)


def written() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("read").rglob("*") if path.is_file()}


def whys() -> list[str]:
    found = [stale(Path(f"read/{name}.md"), Path(f"notebooks/{name}.ipynb")) for name in OUTPUTS]
    return [sentence for sentence in found if sentence]


def test_a_chapter_becomes_text_code_and_results(checkout):
    assert main([]) == 0
    page = Path("read/00_first.md").read_text()
    assert "```python\nx = 1\n```" in page
    assert '![a \\[b\\] "c"](figures/00-line.png)\n\n*A \\*b\\*.*' in page
    assert Image.open(BytesIO(Path("read/figures/00-line.png").read_bytes())).size == (256, 256)
    assert "\n<table>\n<tr><td>1</td></tr>\n</table>\n" in page
    assert "\n````text\n```\nprinted\n````\n" in page
    assert "```text\n{'a': 1}\n```" in Path("read/01_second.md").read_text()
    assert "next: [Second](01_second.md)" in page and "[notebook](../notebooks/00_first.ipynb)" in page


def test_formulas_and_links_are_as_the_web_view_needs_them(checkout):
    assert main([]) == 0
    page = Path("read/00_first.md").read_text()
    assert r"See $`\Delta = T(\lambda C + S)^{-1}`$, `$HOME`," in page
    assert "```math\n\\begin{aligned} a &= b \\end{aligned}\n```" in page
    assert "[there](01_second.md#what-it-is-then)" in page and "\n[words](../docs/words.md#a)" in page
    assert "$not$ a formula, [nor](a link)" in page


def test_the_index_and_readme_list_every_chapter(checkout):
    assert main([]) == 0
    index, readme = Path("read/README.md").read_text(), Path("README.md").read_text()
    assert "| [01 Second](01_second.md) | What follows? |" in index and "- count to *two*" in index
    row = "| [00 First](read/00_first.md) | Can it be counted? | 1 | [notebook](notebooks/00_first.ipynb) |"
    assert row in readme and readme.endswith(f"{END}\n\nafter\n")


def test_twice_gives_the_same_bytes(checkout):
    assert main([]) == 0
    first, readme = written(), Path("README.md").read_text()
    assert main([]) == 0
    assert written() == first and Path("README.md").read_text() == readme


def test_a_fresh_page_is_not_stale_and_a_changed_cell_is_named(checkout):
    assert whys() == [
        "read/00_first.md is not there: make publish writes it from 00_first.ipynb.",
        "read/01_second.md is not there: make publish writes it from 01_second.ipynb.",
    ]
    assert main([]) == 0
    assert whys() == []
    save("00_first", OPENING, TEXT, sources=("x = 1", "x + 1"))
    assert whys() == ["read/00_first.md is stale: cell 4 of 00_first.ipynb has changed since, so call make publish."]
    save("00_first", OPENING + "More.", TEXT)
    assert whys() == ["read/00_first.md is stale: cell 1 of 00_first.ipynb has changed since, so call make publish."]
    save("00_first", OPENING, TEXT, "## More")
    assert "cell 3 of 00_first.ipynb has changed" in whys()[0]


def test_a_new_last_cell_makes_a_page_stale(checkout):
    assert main([]) == 0
    notebook = read_notebook(Path("notebooks/00_first.ipynb"))
    notebook.cells.append(new_markdown_cell("end"))
    nbformat.write(notebook, "notebooks/00_first.ipynb")
    assert whys() == ["read/00_first.md is stale: 00_first.ipynb has 5 cells and had 4, so call make publish."]


def test_a_page_of_another_scale_is_stale(checkout, monkeypatch):
    for name in OUTPUTS:
        keep(name, "smoke")
    monkeypatch.setenv("FLEKE_SCALE", "smoke")
    assert main([]) == 0
    assert whys()[0] == "read/00_first.md is of a run at smoke scale: write it with FLEKE_SCALE=lesson make publish."


def test_a_change_of_the_text_needs_no_run_not_even_without_kept_ones(checkout, monkeypatch):
    assert main([]) == 0
    pictures = Path("read/figures/00-line.png").read_bytes()
    for path in Path("build/executed/lesson").iterdir():
        path.unlink()
    monkeypatch.setattr("tools.run_notebooks.run_tour", lambda options: pytest.fail("it ran a chapter"))
    save("00_first", OPENING, TEXT + "\nAnother sentence.")
    assert main([]) == 0
    page = Path("read/00_first.md").read_text()
    assert "Another sentence." in page and "<td>1</td>" in page and whys() == []
    assert Path("read/figures/00-line.png").read_bytes() == pictures


def test_only_chapters_with_other_code_are_run(checkout, monkeypatch):
    assert main([]) == 0
    ran = []

    def run(options):
        ran.extend(path.stem for path in options.notebooks)
        for path in options.notebooks:
            keep(path.stem)
        return []

    monkeypatch.setattr("tools.run_notebooks.run_tour", run)
    save("01_second", "# Second\n\n- dial", sources=("x = 2", "x"))
    assert main([]) == 0
    assert ran == ["01_second"] and whys() == []
    assert main(["--again"]) == 0
    assert ran == ["01_second", "00_first", "01_second"]


def test_a_chapter_that_fails_publishes_nothing(checkout, monkeypatch, capsys):
    monkeypatch.setattr("tools.run_notebooks.run_tour", lambda options: ["01_second stopped at cell 1 (x): Error"])
    save("01_second", "# Second\n\n- dial", sources=("x = 2", "x"))
    assert main([]) == 1
    assert "error: 01_second stopped at cell 1" in capsys.readouterr().err
    assert written() == {}


def test_another_model_is_not_published(checkout, monkeypatch, capsys):
    monkeypatch.setenv("FLEKE_MODEL", "somebody/tiny")
    assert main([]) == 1
    assert "the pages are of the default model, and FLEKE_MODEL names tiny: unset it." in capsys.readouterr().err
    assert written() == {}


def test_what_is_no_longer_shown_is_removed_and_nothing_else(checkout):
    assert main([]) == 0
    Path("read/09_gone.md").write_bytes(Path("read/00_first.md").read_bytes())
    for name in ("read/figures/09-gone.png", "read/notes.txt", "read/notes.md"):
        Path(name).touch()
    assert main([]) == 0
    assert {"read/notes.txt", "read/notes.md"} <= written().keys()
    assert not [name for name in written() if "gone" in name]


def test_in_a_folder_with_other_pages_nothing_of_these_is_removed(checkout):
    Path("docs/figures").mkdir()
    Path("docs/figures/mine.png").touch()
    assert main(["--to", "docs"]) == 0
    assert Path("docs/words.md").exists() and Path("docs/figures/mine.png").exists()
    assert Path("docs/00_first.md").exists()


def test_too_many_bytes_are_refused_before_anything_is_written(checkout, monkeypatch, capsys):
    monkeypatch.setattr("tools.publish.LIMIT", 1000)
    assert main([]) == 1
    assert re.search(r"error: read would have [\d,]+ bytes, where 1,000 are allowed", capsys.readouterr().err)
    assert written() == {}


def test_a_picture_shrinks_and_is_the_same_each_time():
    assert small(png()) == small(png())
    noise = BytesIO()
    Image.effect_noise((300, 300), 80).convert("RGB").save(noise, "png")
    assert len(small(noise.getvalue())) < len(noise.getvalue())


def test_lines_in_the_figures_colours_stay_distinct_among_many_others():
    picture, drawn = Image.effect_noise((300, 300), 80).convert("RGB"), BytesIO()
    for i, colour in enumerate(CYCLE):
        picture.paste(colour, (0, 10 * i, 40, 10 * i + 2))
    picture.save(drawn, "png")
    kept = Image.open(BytesIO(small(drawn.getvalue()))).convert("RGB")
    assert [kept.getpixel((20, 10 * i)) for i in range(len(CYCLE))] == [ImageColor.getrgb(colour) for colour in CYCLE]


def test_a_fence_is_longer_than_what_it_holds():
    assert fenced("````\nx  ", "text") == "`````text\n````\nx\n`````"
