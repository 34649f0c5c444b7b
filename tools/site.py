"""The whole site: the sources that become pages, and the files that the pages share."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nbformat import NotebookNode

from tools.chapters import chapter, has_results
from tools.contents import contents
from tools.declared import Declaration, read_notebook
from tools.documents import document, documents
from tools.execute import Run
from tools.links import dangling
from tools.pages import TEMPLATES, Around, Page, faults, write_whole
from tools.playground import has_playground, playground
from tools.search import INDEX, script
from tools.slides import write_slides
from tools.tour import exercises, stops

SCRIPT = "site.js"
SLIDES = "slides.html"


@dataclass(frozen=True)
class Site:
    """The site of a checkout: it is written to ``folder``; the tour is in ``notebooks``."""

    folder: Path
    notebooks: Path
    tour: list[Declaration]

    @cached_property
    def chapters(self) -> list[Page]:
        """The tour's pages, in order."""
        return [Page(stop.path, f"{stop.name}.html", stop.title) for stop in self.tour]

    @cached_property
    def exercises(self) -> list[Page]:
        """The exercises' pages."""
        return exercises(self.notebooks)

    @cached_property
    def documents(self) -> list[Page]:
        """The documents' pages."""
        return documents(self.notebooks.resolve().parent)

    @cached_property
    def every(self) -> list[Page]:
        """Every page that has its own source."""
        return [*self.chapters, *self.exercises, *self.documents]

    def write_unrun(self) -> list[str]:
        """Write all pages that need no run: documents, exercises, and chapters without results so far.

        Returns one sentence for each fault.
        """
        write_whole(self.folder / SCRIPT, (TEMPLATES / SCRIPT).read_text(encoding="utf-8"))
        bare = [page for page in self.every if page not in self.chapters or not has_results(self.folder / page.name)]
        return [sentence for page in bare for sentence in self._write(page)]

    def write_chapter(self, stop: Declaration, notebook: NotebookNode, run: Run) -> list[str]:
        """Write the page of a chapter that has run; return one sentence for each fault."""
        return self._write(self.chapters[self.tour.index(stop)], notebook, run)

    def write_contents(self, runs: Mapping[str, Run]) -> None:
        """Write the first page."""
        slides = (self.folder / SLIDES).exists()
        around = Around(further=tuple(self.documents))
        html = contents(stops(self.tour, self.exercises), runs, self.folder, around, slides)
        write_whole(self.folder / "index.html", html)

    def write_slides(self, figures: Path) -> list[str]:
        """Write the lecture's slides with the figures in a folder; return the reason if this was not possible."""
        source = self.notebooks.resolve().parent / "docs" / "slides.md"
        if not source.exists():
            return []
        try:
            write_slides(figures, self.folder / SLIDES, source)
        except ValueError as error:
            return [f"the slides are not renewed: {error}"]
        return []

    def write_search(self) -> list[str]:
        """Write the search index of all pages; return one sentence for each broken link."""
        written = [path for page in self.every if (path := self.folder / page.name).exists()]
        write_whole(self.folder / INDEX, script(written))
        return dangling([self.folder / "index.html", *written])

    def _write(self, page: Page, notebook: NotebookNode | None = None, run: Run | None = None) -> list[str]:
        try:
            html = self._html(page, notebook, run)
        except ValueError as error:
            return [f"{page.source.stem} has no page: {error}"]
        write_whole(self.folder / page.name, html)
        return [f"the page of {page.source.stem} is not as it should be: {fault}" for fault in faults(html)]

    def _html(self, page: Page, notebook: NotebookNode | None, run: Run | None) -> str:
        pages = {other.source.resolve(): other.name for other in self.every}
        if page in self.documents and has_playground(page):
            return playground(page, self._around(page), pages)
        if page in self.documents:
            return document(page, self._around(page), pages)
        kind = "exercises" if page in self.exercises else "chapter"
        return chapter(page, notebook or read_notebook(page.source), run, self._around(page), pages, kind)

    def _around(self, page: Page) -> Around:
        further = tuple(self.documents)
        if page not in self.chapters:
            return Around(further=further)
        i = self.chapters.index(page)
        before, after = self.chapters[:i], self.chapters[i + 1 :]
        return Around(before[-1] if before else None, after[0] if after else None, further)
