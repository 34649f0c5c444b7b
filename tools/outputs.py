"""Tidy the outputs of an executed notebook for a static page: no widgets, overwritten lines or paths of a machine."""

import copy
import re

from nbformat import NotebookNode

# What a warning says of where it was raised: a cell's file, whose name differs in every run, or an installed module.
CELL_FILE = re.compile(r"^(?:/\S*)?/ipykernel_\d+/\d+\.py:(\d+): ", re.MULTILINE)
INSTALLED = re.compile(r"^/.*?/site-packages/(\S+\.py:\d+: )", re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"


def last_state(text: str) -> str:
    r"""The text as a terminal shows it: of each line only the part after its last carriage return."""
    text = re.sub(r"\r+\n", "\n", text)
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def without_machine(text: str) -> str:
    """The text without the paths of the machine on which it was printed."""
    return INSTALLED.sub(r"\1", CELL_FILE.sub(r"line \1 of this cell: ", text))


def is_widget(output: NotebookNode) -> bool:
    """Whether an output is visible only with a running kernel."""
    return WIDGET in output.get("data", {})


def readable_outputs(notebook: NotebookNode) -> NotebookNode:
    """A copy of the notebook whose outputs have no widgets, no overwritten lines and no paths of the machine."""
    tidy = copy.deepcopy(notebook)
    for cell in tidy.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if not is_widget(output)]
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = without_machine(last_state(output.text))
    return tidy
