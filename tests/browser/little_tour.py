"""A checkout with a little tour: all that a page may hold, and nothing that takes long to run."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

OPENING = """\
# First

When you have run this page you can

- count to *two*;
- solve $x = T (\\lambda C + S)^{-1}$.

| chapter | question |
|---|---|
| **00 first** | can it be counted? |
| [01 second](01_second.ipynb) | what follows? |
| [02 third](02_third.ipynb) | and then? |
| 03 fourth | who knows? |
"""
FORMULA = r"""
## A long formula

$$\begin{aligned}
W &= \sum_i w_i k_i k_i^\top + \sum_i w_i k_i k_i^\top + \sum_i w_i k_i k_i^\top + \sum_i w_i k_i k_i^\top
\end{aligned}$$

## Notes

See [the second's quokka](01_second.ipynb#Where-the-quokka-lives), [a word](../docs/words.md#a-long-word) and
[the project](../pyproject.toml).

<details><summary>Hint</summary>

Folded away, with $y$ and `code`.

</details>

## Notes

The same heading again.
"""
FIGURE = """\
from fleke_lib.figures.style import canvas, finish

with canvas() as (figure, axis):
    axis.plot([0, 1], [0, 1])
    axis.set(xlabel="Time (seconds)", ylabel="Distance (metres)")
finish(figure, "00-line", caption="A line.", alt='A line that rises, from "0" to 1.', data={})"""
TABLE = """\
from IPython.display import HTML

HTML("<table><tr>" + "<th>a heading</th>" * 20 + "</tr><tr>" + "<td>0.123456</td>" * 20 + "</tr></table>")"""
WIDGET = "from ipywidgets import IntSlider\n\nIntSlider(description='dial')"
LONG = "words = 'a line of code that is too long for a phone, and for many a window on a desk'; print(words * 3)"
WORDS = """\
# Words

| word | meaning |
|---|---|
| edit | a change |

## A long word

Back to [the beginning](../notebooks/00_first.ipynb#A-long-formula), or on to [the licence](../LICENSE).

```python
def word():
    return "word"
```
"""


def write_checkout(root: Path) -> Path:
    """Write it into a new folder, and return that."""
    notebooks = root / "notebooks"
    (notebooks / "exercises").mkdir(parents=True)
    save(notebooks / "00_first.ipynb", OPENING, FORMULA, new_code_cell(FIGURE), new_code_cell(TABLE))
    second = "# Second\n\n- dial\n\n## Where the quokka lives\n\nOn Rottnest Island.\n\n## What it eats\n\nLeaves."
    save(notebooks / "01_second.ipynb", second, *map(new_code_cell, (WIDGET, LONG, "assert True", "1 + 1")))
    save(notebooks / "02_third.ipynb", "# Third\n\nNot run.", new_code_cell("1 / 0"))
    save(notebooks / "exercises" / "01_second.ipynb", "# Exercises: second", new_code_cell("..."))
    (root / "docs").mkdir()
    (root / "docs" / "words.md").write_text(WORDS, encoding="utf-8")
    for name in ("LICENSE", "pyproject.toml"):
        (root / name).touch()
    return root


def save(path: Path, *cells: str | nbformat.NotebookNode) -> None:
    """Write a notebook of text and code cells."""
    made = [new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    nbformat.write(new_notebook(cells=made, metadata={"fleke": {"minutes": 1, "memory_gb": 3}}), path)
