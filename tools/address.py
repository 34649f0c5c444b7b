"""The repository's public address, from ``[project.urls]`` in pyproject.toml, and what follows from it.

Links to Binder and Colab, and the cell that sets Colab up, all name the tag of the package's version. Where no address
is known there are none.

Colab has only the notebook. Its cell therefore clones the repository and works in it: chapter 09 needs `tools`, which
is not installed with the package, and chapter 10 needs data files of other packages. Colab has Jupyter, so the extra
`notebooks` is left out. The package is installed as a copy: a running kernel does not see an editable installation.
"""

import copy
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from tools.executed import COLAB

KEY = "Repository"
GITHUB = "https://github.com/"
MISSING = (
    f"pyproject.toml names no public address, so there are no links to Binder and Colab: write {KEY} = "
    '"https://github.com/OWNER/NAME" under [project.urls], call make publish, and push a tag of the version.'
)
CELL = """\
import os
import subprocess
import sys
import tempfile

if "google.colab" in sys.modules:  # elsewhere everything is installed already, and this cell does nothing
    course = os.path.join(tempfile.gettempdir(), "fleke-{tag}")
    if not os.path.exists(course):
        subprocess.run(["git", "clone", "--quiet", "--depth=1", "--branch={tag}", "{url}", course], check=True)
    os.chdir(os.path.join(course, "notebooks"))
    for what in ([".."], ["--no-deps", "--no-compile", "-r", "../requirements-data.lock"]):
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *what], check=True)"""


@dataclass(frozen=True)
class Address:
    """Where the repository is published, at the tag of the present version; ``url`` is empty if nowhere yet."""

    url: str
    version: str

    @classmethod
    def of(cls, pyproject: Path) -> "Address":
        """The address in a pyproject.toml."""
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        return cls(project.get("urls", {}).get(KEY, "").rstrip("/"), project["version"])

    @property
    def tag(self) -> str:
        """The tag that links and cells name, so that they keep to what was published with it."""
        return f"v{self.version}"

    def binder(self, notebook: str) -> str | None:
        """The link that opens a notebook in Binder; `notebook` is its path in the repository."""
        if not self.url:
            return None
        github = self.url.removeprefix(GITHUB)
        place = f"gh/{github}" if github != self.url else f"git/{quote(self.url, safe='')}"
        return f"https://mybinder.org/v2/{place}/{self.tag}?urlpath={quote(f'lab/tree/{notebook}', safe='')}"

    def colab(self, notebook: str) -> str | None:
        """The link that opens a notebook in Colab, which knows GitHub only."""
        if not self.url.startswith(GITHUB):
            return None
        place = self.url.removeprefix(GITHUB)
        return f"https://colab.research.google.com/github/{place}/blob/{self.tag}/{notebook}"


def with_colab(notebook: NotebookNode, address: Address) -> NotebookNode:
    """A copy of a notebook whose first code cell sets Colab up; without that cell if there is no address for it."""
    made = copy.deepcopy(notebook)
    made.cells = [cell for cell in made.cells if COLAB not in cell.metadata.get("tags", [])]
    if address.colab("") is not None:
        cell = new_code_cell(CELL.format(url=address.url, tag=address.tag), id=COLAB, metadata={"tags": [COLAB]})
        first = next((i for i, one in enumerate(made.cells) if one.cell_type == "code"), len(made.cells))
        made.cells.insert(first, cell)
    return made
