"""Notebooks to pages: executed ones with their results, others with text and code only."""

from collections.abc import Mapping
from pathlib import Path

from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

from tools.execute import Run
from tools.links import Lead
from tools.markdown import Anchors, to_html
from tools.outputs import readable_outputs
from tools.pages import TEMPLATES, Around, Page, framed

WITHOUT_RESULTS = "data-without-results"  # marks the page of a chapter that has not run


def chapter(
    page: Page, notebook: NotebookNode, run: Run | None, around: Around, pages: Mapping[Path, str], kind: str
) -> str:
    """The page of a notebook; `run` is None if it was not run, and `kind` is "chapter" or "exercises".

    Raises ``ValueError`` for a formula that does not convert.
    """
    body = cells(readable_outputs(notebook), Lead(page.source, pages))
    return framed("chapter.html.j2", around, body, page=page, run=run, kind=kind, mark=WITHOUT_RESULTS)


def has_results(path: Path) -> bool:
    """Whether a page exists and shows the results of a run, this one or an earlier one."""
    return path.exists() and WITHOUT_RESULTS not in path.read_text(encoding="utf-8")


def cells(notebook: NotebookNode, lead: Lead) -> str:
    """The HTML of a notebook's cells."""
    anchors = Anchors()
    exporter = HTMLExporter(
        template_name="fleke",
        extra_template_basedirs=[str(TEMPLATES)],
        filters={"markdown2html": lambda source: to_html(source, lead, anchors)},
        config=Config(HTMLExporter={"exclude_anchor_links": True}),
    )
    html, _ = exporter.from_notebook_node(notebook)
    return html
