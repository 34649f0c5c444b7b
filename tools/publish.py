"""Write `read/`, the course as Markdown that needs no run, and README's table of chapters: ``python -m tools.publish``.

Outputs come from the last run of each chapter at lesson scale that had the same code cells (``build/executed/``), or
else from its present page. Only chapters that have neither are run. ``--again`` runs all of them.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from fleke_lib.course.chosen import VARIABLE, another
from fleke_lib.course.scale import scale
from tools import run_notebooks
from tools.address import Address, with_colab
from tools.answers import TEACHING, answers, with_answers
from tools.chapter_table import spliced, table
from tools.declared import Declaration, declaration, number_of, numbered_notebooks, read_notebook
from tools.executed import Executed
from tools.pages import write_whole
from tools.reading import FORMULA, MARK, Reading, formula, kept_outputs
from tools.tour import Stop, stops

LIMIT = 4_000_000  # bytes of the whole folder
INDEX = "README.md"


@dataclass(frozen=True)
class Publication:
    """The pages of a tour: its notebooks, the folder that they go to, and the runs that are kept."""

    tour: list[Declaration]
    folder: Path
    kept: Executed
    scale: str

    @property
    def pages(self) -> dict[Path, str]:
        """The page of every chapter, by its notebook's resolved path."""
        return {stop.path.resolve(): f"{stop.name}.md" for stop in self.tour}

    def missing(self) -> list[Declaration]:
        """The chapters whose code cells have neither a kept run nor a page."""
        return [stop for stop in self.tour if self._found(stop, self._reading(stop)) is None]

    def write(self) -> list[Path]:
        """Write pages, pictures and the index, and remove those of an earlier call that are no longer among them.

        Returns the files.

        Raises ``ValueError`` for a chapter that has not run, and for a folder over the limit.
        """
        files: dict[Path, bytes] = {}
        for i, stop in enumerate(self.tour):
            reading = self._reading(stop)
            outputs = self._found(stop, reading)
            if outputs is None:
                raise ValueError(f"{stop.name} has no results at {self.scale} scale: run it, and publish again.")
            page = reading.page(read_notebook(stop.path), self.scale, outputs, self._around(i))
            files[self.folder / f"{stop.name}.md"] = page.encode()
            files |= {self.folder / "figures" / name: png for name, png in self._pictures(reading, outputs).items()}
        files[self.folder / INDEX] = index(self.tour, stops(self.tour, []), self.scale).encode()
        if (size := sum(map(len, files.values()))) > LIMIT:
            raise ValueError(
                f"{self.folder} would have {size:,} bytes, where {LIMIT:,} are allowed: show fewer pictures."
            )
        before = set(self._made())
        for path, content in files.items():
            write_whole(path, content)
        for path in before - files.keys():
            path.unlink()
        return list(files)

    def _made(self) -> list[Path]:
        """What an earlier call has written there: pages with its mark, and their pictures."""
        pages = [path for path in self.folder.glob("*.md") if path.read_text(encoding="utf-8").startswith(MARK)]
        return [*pages, *((self.folder / "figures").glob("*.png") if pages else ())]

    def _reading(self, stop: Declaration) -> Reading:
        return Reading(stop.path, self.folder, self.pages)

    def _found(self, stop: Declaration, reading: Reading) -> list[str] | None:
        notebook = read_notebook(stop.path)
        executed = self.kept.outputs(stop.name, notebook, self.scale)
        if executed is not None:
            return reading.outputs(executed)
        return kept_outputs(self.folder / f"{stop.name}.md", notebook, self.scale)

    def _pictures(self, reading: Reading, outputs: list[str]) -> dict[str, bytes]:
        """The pictures of a page: those of its run, or those that it has already."""
        present = {path.name: path for path in (self.folder / "figures").glob("*.png")}
        shown = [name for name in present if any(f"(figures/{name})" in piece for piece in outputs)]
        return reading.pictures or {name: present[name].read_bytes() for name in shown}

    def _around(self, i: int) -> str:
        """The line of links above and below a chapter."""
        stop, last = self.tour[i], len(self.tour) - 1
        notebook = os.path.relpath(stop.path.resolve(), self.folder.resolve())
        links = [f"[all chapters]({INDEX})", f"[notebook]({notebook})"]
        links += [f"before: [{self.tour[i - 1].title}]({self.tour[i - 1].name}.md)"] if i else []
        links += [f"next: [{self.tour[i + 1].title}]({self.tour[i + 1].name}.md)"] if i < last else []
        return " · ".join(links)


def index(tour: list[Declaration], announced: list[Stop], scale: str) -> str:
    """The first page: every chapter with its question, and what its reader can do afterwards."""
    questions = {stop.number: stop.question for stop in announced}
    rows = [f"| [{stop.number} {stop.title}]({stop.name}.md) | {questions[stop.number]} |" for stop in tour]
    parts = [
        f"{MARK}: edit nothing here -->\n\n# The course, to read\n\nThese are the chapters with the "
        f"results of a run at {scale} scale on two CPU cores. Nothing has to be installed to read them. To run a "
        "chapter yourself, open its notebook ([how](../README.md)).",
        "\n".join(["| chapter | question |", "|---|---|", *rows]),
    ]
    for stop in tour:
        goals = "\n".join(f"- {goal}" for goal in stop.goals)
        parts.append(f"## [{stop.number} {stop.title}]({stop.name}.md)\n\nWhen you have run it, you can\n\n{goals}")
    return FORMULA.sub(formula, "\n\n".join(parts)) + "\n"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.publish", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("notebooks"), help="where the tour is")
    parser.add_argument("--build", type=Path, default=Path("build"), help="where runs are kept, and the site goes")
    parser.add_argument("--to", type=Path, default=Path("read"), help="where the pages go")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="whose table of chapters is renewed")
    parser.add_argument("--again", action="store_true", help="run every chapter, also those that have results")
    return parser.parse_args(arguments)


def publish(options: argparse.Namespace) -> list[str]:
    """Run what is missing, and write everything; return the sentences that make it fail."""
    if another():
        raise ValueError(f"the pages are of the default model, and {VARIABLE} names {another()}: unset it.")
    tour = [declaration(path, read_notebook(path)) for path in numbered_notebooks(options.folder)]
    address = Address.of(Path("pyproject.toml"))
    for stop in tour:
        renew(stop.path, address)
    made = Publication(tour, options.to, Executed(options.build / "executed"), scale().name)
    todo = tour if options.again else made.missing()
    if todo:
        print(f"to run: {', '.join(stop.name for stop in todo)}", file=sys.stderr)
        paths = [str(stop.path) for stop in todo]
        problems = run_notebooks.run_tour(
            run_notebooks.parse([*paths, "--folder", str(options.folder), "--build", str(options.build)])
        )
        if problems:
            return problems
    files = made.write()
    text = options.readme.read_text(encoding="utf-8")
    write_whole(options.readme, spliced(text, table(tour, options.to, address, options.readme.parent)))
    print(f"{len(files)} files in {options.to}, {sum(path.stat().st_size for path in files) / 1e6:.2f} MB")
    return []


def renew(path: Path, address: Address) -> None:
    """Give a notebook what is made from other files: answers under its questions, and the set-up cell for Colab."""
    before = read_notebook(path)
    after = with_colab(answered(path), address)
    if after != before:
        write_whole(path, nbformat.writes(after) + "\n")


def answered(path: Path) -> NotebookNode:
    """A notebook with the answers of the teacher's page beside its folder, if there is one."""
    page = path.resolve().parents[1] / TEACHING
    found = answers(page.read_text(encoding="utf-8"), number_of(path)) if page.exists() else []
    return with_answers(read_notebook(path), found, path.parent, page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if everything was written, otherwise 1; 130 after Ctrl-C."""
    try:
        problems = publish(parse(arguments))
    except ValueError as error:
        problems = [str(error)]
    except KeyboardInterrupt:
        print("\nstopped by hand; what has run is kept, and the next call goes on from there", file=sys.stderr)
        return 130
    for sentence in problems:
        print(f"error: {sentence}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
