"""Tidy the outputs of an executed notebook for a static page: no widgets, no overwritten progress lines."""

import copy
import re

from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"


def last_state(text: str) -> str:
    r"""The text as a terminal shows it: of each line only the part after its last carriage return."""
    text = re.sub(r"\r+\n", "\n", text)
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def is_widget(output: NotebookNode) -> bool:
    """Whether an output is visible only with a running kernel."""
    return WIDGET in output.get("data", {})


def readable_outputs(notebook: NotebookNode) -> NotebookNode:
    """A copy of the notebook without widgets and overwritten lines in its outputs."""
    tidy = copy.deepcopy(notebook)
    for cell in tidy.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if not is_widget(output)]
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = last_state(output.text)
    return tidy
