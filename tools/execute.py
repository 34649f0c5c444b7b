"""Run one notebook from top to bottom in its own kernel, and measure time and memory."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from traitlets.config import Config

from fleke_lib.course import another
from fleke_lib.course.chosen import VARIABLE, chosen
from fleke_lib.course.held import MEASURED, UNHELD
from fleke_lib.course.scale import scale
from fleke_lib.storage.files import user_path
from tools.claims import asserted_claims
from tools.declared import Declaration
from tools.memory import PeakMemory

PICTURES = (".png", ".svg")


@dataclass(frozen=True)
class Failure:
    """Where a notebook stopped: the code cell's number, counted from 1, its first line, and the error in one line."""

    cell: int
    line: str
    error: str

    def __str__(self) -> str:
        return f"cell {self.cell} ({self.line}): {self.error}"


@dataclass(frozen=True)
class Unheld:
    """A claim that does not hold on another model than the default one.

    cell: the code cell's number, counted from 1. measured: whether the cell's claims belong to the default model.
    """

    cell: int
    condition: str
    measured: bool

    def __str__(self) -> str:
        return f"cell {self.cell}: {self.condition}"


@dataclass(frozen=True)
class Run:
    """One notebook after it ran. ``claims`` counts the ``assert`` statements of the cells that passed.

    unheld: claims that do not hold, also of the cell that failed.
    model: another model than the default one, if it ran on that.
    """

    declared: Declaration
    scale: str
    minutes: float
    peak_gb: float
    figures: int
    claims: int
    failure: Failure | None
    unheld: tuple[Unheld, ...] = ()
    model: str | None = None

    @property
    def held(self) -> int:
        """How many of the counted claims hold. Those of a cell that failed are not counted."""
        failed = self.failure.cell if self.failure else None
        return self.claims - sum(claim.cell != failed for claim in self.unheld)


def first_line(source: str) -> str:
    """The first non-empty line of a text."""
    return next((line.strip() for line in source.splitlines() if line.strip()), "")


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """The code cells that are not empty, each with its index among all cells."""
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]


def pictures(folder: Path) -> dict[Path, int]:
    """Every picture under a folder with its modification time in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in PICTURES}


@contextmanager
def kernel(client: NotebookClient, figures: Path) -> Iterator[PeakMemory]:
    """A kernel that writes figures to this folder, with its memory measured from start to end."""
    environment = {**os.environ, "FLEKE_FIGURES": str(figures)}
    if another() and (folder := user_path(chosen())).exists():  # the kernel works in the notebook's folder
        environment[VARIABLE] = str(folder.resolve())
    with client.setup_kernel(env=environment), PeakMemory(client.km.provisioner.pid) as peak:
        yield peak


def run_cell(client: NotebookClient, cell: NotebookNode, index: int, number: int) -> Failure | None:
    """Run one cell; return the failure, or None if it passed."""
    try:
        client.execute_cell(cell, index)
    except CellExecutionError as error:
        return Failure(number, first_line(cell.source), f"{error.ename}: {first_line(error.evalue)}")
    except DeadKernelError:
        reason = "the kernel died, most often because memory ran out: close other programs and try again"
        return Failure(number, first_line(cell.source), reason)
    return None


def unheld(cell: NotebookNode, number: int) -> list[Unheld]:
    """The claims of an executed cell that do not hold, each once."""
    found = [output.get("metadata", {}).get(UNHELD) for output in cell.outputs]
    measured = MEASURED in cell.metadata.get("tags", [])
    return [Unheld(number, condition, measured) for condition in dict.fromkeys(filter(None, found))]


def run_notebook(
    declared: Declaration,
    notebook: NotebookNode,
    figures: Path,
    on_cell: Callable[[int, int], None] = lambda number, cells: None,
) -> Run:
    """Run a notebook in its own folder, and write outputs into ``notebook`` and figures into the folder ``figures``.

    The run stops at the first cell that fails; the result names it. Before each code cell `on_cell` is called with its
    number and the number of all.
    """
    client = NotebookClient(
        notebook,
        kernel_name="python3",  # of the environment that runs this, whatever the notebook was saved with
        timeout=None,
        store_widget_state=False,
        coalesce_streams=True,
        # Otherwise every kernel warns about unencrypted transport.
        config=Config(KernelManager={"transport_encryption": "auto"}),
        resources={"metadata": {"path": str(declared.path.parent)}},
    )
    figures.mkdir(parents=True, exist_ok=True)
    before, started, claims, failure, fell = pictures(figures), time.monotonic(), 0, None, []
    cells = code_cells(notebook)
    with kernel(client, figures) as peak:
        for number, (index, cell) in enumerate(cells, start=1):
            on_cell(number, len(cells))
            failure = run_cell(client, cell, index, number)
            fell += unheld(cell, number)
            if failure:
                break
            claims += asserted_claims(cell.source)
    written = sum(before.get(path) != moment for path, moment in pictures(figures).items())
    minutes = (time.monotonic() - started) / 60
    return Run(declared, scale().name, minutes, peak.gb, written, claims, failure, tuple(fell), another())
