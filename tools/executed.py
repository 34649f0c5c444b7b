"""Executed notebooks are kept by the hash of their code cells, so a change of the text needs no new run.

A chapter's last complete run at each scale is in ``build/executed/<scale>/``. Its outputs are used again as long as the
code cells are the same. A change of the library does not show there: ``make publish AGAIN=1`` runs everything anew.
"""

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.declared import read_notebook
from tools.execute import Run
from tools.pages import write_whole

COLAB = "colab"  # the tag of the cell that sets up Colab, which is written by a tool and does nothing elsewhere
DIGITS = 12  # of a hash; a collision is a missed change, not a security fault


def own_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells of a notebook without Colab's set-up cell."""
    return [cell for cell in notebook.cells if COLAB not in cell.metadata.get("tags", [])]


def cell_hashes(notebook: NotebookNode) -> list[str]:
    """One hash for each cell, of its type and source."""
    return [digest([cell.cell_type, cell.source]) for cell in own_cells(notebook)]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells, also the empty ones."""
    return [cell for cell in own_cells(notebook) if cell.cell_type == "code"]


def code_hash(notebook: NotebookNode) -> str:
    """One hash for all code cells, in their order."""
    return digest(cell.source for cell in code_cells(notebook))


def digest(texts: Iterable[str]) -> str:
    """A short hash of some texts that also depends on where one ends and the next begins."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(hashlib.sha256(text.encode()).digest())
    return whole.hexdigest()[:DIGITS]


@dataclass(frozen=True)
class Executed:
    """The kept runs in a folder."""

    folder: Path

    def path(self, name: str, scale: str) -> Path:
        """Where the run of a chapter at a scale is kept."""
        return self.folder / scale / f"{name}.ipynb"

    def keep(self, notebook: NotebookNode, run: Run) -> None:
        """Keep a notebook that has run completely. A run that failed is not kept."""
        if run.failure:
            return
        kept = copy.deepcopy(notebook)
        kept.metadata["executed"] = {"code": code_hash(notebook), "scale": run.scale}
        write_whole(self.path(run.declared.name, run.scale), nbformat.writes(kept) + "\n")

    def outputs(self, name: str, notebook: NotebookNode, scale: str) -> NotebookNode | None:
        """A copy of the notebook with the kept outputs; None if its code cells did not run like this at this scale."""
        path = self.path(name, scale)
        if not path.exists():
            return None
        kept = read_notebook(path)
        if kept.metadata.get("executed") != {"code": code_hash(notebook), "scale": scale}:
            return None
        filled = copy.deepcopy(notebook)
        for cell, before in zip(code_cells(filled), code_cells(kept), strict=True):
            cell.outputs, cell.execution_count = before.outputs, before.execution_count
        return filled
