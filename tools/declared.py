"""What a notebook declares: its title, its goals, and the minutes and memory that it may take.

Minutes and memory are in the notebook's metadata, ``"fleke": {"minutes": 4, "memory_gb": 3}``, with
``"model": "default"`` where a notebook runs on the default model only. The title is the first heading and the goals are
the first bullet list before any code, which a reader of the notebook sees, too.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

NUMBERED = "[0-9]*.ipynb"


@dataclass(frozen=True)
class Declaration:
    """One notebook before it runs. ``memory_gb``, in 10^9 bytes, is for the kernel and all processes that it starts.

    default_only: whether it runs on the default model only.
    """

    path: Path
    title: str
    goals: tuple[str, ...]
    minutes: float
    memory_gb: float
    default_only: bool = False

    @property
    def name(self) -> str:
        """The file's name without its suffix, as shown in the progress bar and the table."""
        return self.path.stem

    @property
    def number(self) -> str:
        """What the chapter is called by: "05", or "06b" for one that came between two others later."""
        return number_of(self.path)


def number_of(path: Path) -> str:
    """The number of a chapter, of its exercises or of their source: what their names begin with, as "05" or "06b"."""
    return path.stem.partition("_")[0]


def numbered_notebooks(folder: Path) -> list[Path]:
    """The notebooks of the tour, in order. Raises ``ValueError`` if the folder has none."""
    paths = sorted(folder.glob(NUMBERED))
    if not paths:
        raise ValueError(
            f"{folder} holds no notebook named like 00_start_here.ipynb: call this from the checkout's root."
        )
    return paths


def read_notebook(path: Path) -> NotebookNode:
    """The notebook in a file. Raises ``ValueError`` if the file is not a notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise ValueError(f"{path} is not a notebook ({error}): name a file that JupyterLab opens.") from error


def title_of(notebook: NotebookNode, otherwise: str) -> str:
    """The text of the first heading, or `otherwise`."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := re.search(r"^#+\s+(.+)$", cell.source, re.MULTILINE)):
            return match[1].strip()
    return otherwise


def goals_of(notebook: NotebookNode) -> tuple[str, ...]:
    """The items of the first bullet list before any code; empty if there is no such list."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            break
        items = re.findall(r"^[-*] +(.+(?:\n +\S.*)*)", cell.source, re.MULTILINE)
        if items:
            return tuple(" ".join(item.split()) for item in items)
    return ()


def declaration(path: Path, notebook: NotebookNode) -> Declaration:
    """The declaration of a notebook. Raises ``ValueError`` if it declares no minutes or no memory."""
    budget = notebook.metadata.get("fleke", {})
    for key in ("minutes", "memory_gb"):
        if not isinstance(budget.get(key), int | float) or budget[key] <= 0:
            raise ValueError(
                f"{path} declares no {key}: its metadata must hold a positive number for each, "
                '"fleke": {"minutes": 4, "memory_gb": 3}.'
            )
    title = title_of(notebook, otherwise=path.stem)
    default_only = budget.get("model") == "default"
    return Declaration(path, title, goals_of(notebook), budget["minutes"], budget["memory_gb"], default_only)
