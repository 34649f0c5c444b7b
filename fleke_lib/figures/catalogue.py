"""Which cell of which notebook draws which figure, read from the notebooks' source without running it.

A figure's name is an argument of the function that draws it, or that argument's default. The calls and the signatures
of these functions are therefore enough to find it:

    from fleke_lib.figures import federation as figures     an alias, from this cell on
    figures.methods(found)                                   federation.methods, whose name is "05-methods" by default
    figures.methods(apart, name="05-kinds-of-facts")         the same function, another figure
"""

import ast
import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fleke_lib.figures.style import Picture

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PACKAGE = "fleke_lib.figures"
NUMBERED = "[0-9]*.ipynb"


@dataclass(frozen=True)
class Entry:
    """One figure and where it is drawn.

    notebook, cell: where it is drawn; cells of all types are counted from 0.
    caption: the figure's caption if it is the same for all data, otherwise the first line of its function's docstring.
    """

    name: str
    notebook: Path
    cell: int
    caption: str

    @property
    def chapter(self) -> str:
        return self.notebook.stem


def catalogue(folder: Path = NOTEBOOKS) -> dict[str, Entry]:
    """Every figure of the notebooks in a folder, by name, in the order in which the course draws them.

    Raises:
        FileNotFoundError: the folder has no notebooks.
        ValueError: a cell is not plain Python, or a figure's name is not a constant.
    """
    notebooks = sorted(folder.glob(NUMBERED))
    if not notebooks:
        raise FileNotFoundError(
            f"the figures are drawn by the course's notebooks and {folder} holds none: run this from a checkout of the "
            "repository, which the installed package alone is not."
        )
    return {entry.name: entry for path in notebooks for entry in _figures_of(path)}


def code_cells(notebook: Path) -> list[tuple[int, str]]:
    """The source of each code cell of a notebook, with its number; cells of all types are counted from 0."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [(i, "".join(cell["source"])) for i, cell in enumerate(cells) if cell["cell_type"] == "code"]


def _figures_of(notebook: Path) -> Iterator[Entry]:
    known: dict[str, object] = {}  # the notebook's names for figure modules and figure functions
    for number, source in code_cells(notebook):
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            raise ValueError(
                f"cell {number} of {notebook.name} is not plain Python ({error.msg}): write it without magics."
            ) from None
        nodes = sorted((node for node in ast.walk(tree) if hasattr(node, "lineno")), key=lambda node: node.lineno)
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                known |= _imported(node)
            elif isinstance(node, ast.Call) and (function := _called(node.func, known)):
                name = _name(node, function, f"cell {number} of {notebook.name}")
                yield Entry(name, notebook, number, _caption(function))


def _imported(node: ast.ImportFrom) -> dict[str, object]:
    """The figure modules or figure functions that an import statement binds, by the notebook's name for them."""
    if node.module == PACKAGE:
        found = {alias: importlib.import_module(f"{PACKAGE}.{name}") for name, alias in _names(node)}
    elif (node.module or "").startswith(f"{PACKAGE}."):
        module = importlib.import_module(node.module)
        found = {alias: getattr(module, name) for name, alias in _names(node)}
    else:
        found = {}
    return found


def _names(node: ast.ImportFrom) -> list[tuple[str, str]]:
    return [(name.name, name.asname or name.name) for name in node.names]


def _called(called: ast.expr, known: dict[str, object]) -> Callable | None:
    """The figure function that a call refers to, or None."""
    match called:
        case ast.Attribute(value=ast.Name(id=alias), attr=attribute) if inspect.ismodule(known.get(alias)):
            function = getattr(known[alias], attribute, None)
        case ast.Name(id=alias):
            function = known.get(alias)
        case _:
            function = None
    draws = inspect.isfunction(function) and inspect.signature(function).return_annotation in (
        Picture,
        Picture.__name__,
    )
    return function if draws else None


def _name(call: ast.Call, function: Callable, place: str) -> str:
    """The figure's name: the call's argument, or the function's default."""
    signature = inspect.signature(function)
    given = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
    given += call.args[[*signature.parameters].index("name") :][:1]
    value = ast.literal_eval(given[0]) if given and isinstance(given[0], ast.Constant) else None
    name = value if given else signature.parameters["name"].default
    if not isinstance(name, str):
        raise ValueError(f"{function.__name__} in {place} has no name that can be read: give it as a plain string.")
    return name


def _caption(function: Callable) -> str:
    """The caption that the function passes to `finish` if it is a constant, otherwise its docstring's first line."""
    for node in ast.walk(ast.parse(inspect.getsource(function))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "finish":
            for keyword in node.keywords:
                if keyword.arg == "caption" and isinstance(keyword.value, ast.Constant):
                    return keyword.value.value
    return inspect.getdoc(function).splitlines()[0]
