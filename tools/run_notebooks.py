"""Run the notebooks of the tour, write their pages and the index, print the table: ``python -m tools.run_notebooks``.

All notebooks run, even after one has failed; the exit status is 1 if any of them failed. Where ``FLEKE_MODEL`` names
another model, those about the default model are left out, pages and figures go into a folder of their own, and claims
that do not hold on this model are listed.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fleke_lib.course import another
from fleke_lib.course.scale import scale
from fleke_lib.storage.files import user_path
from tools import report
from tools.declared import Declaration, declaration, numbered_notebooks, read_notebook
from tools.execute import Run, run_notebook
from tools.executed import Executed
from tools.progress import Progress
from tools.site import Site


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.run_notebooks", description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="run only these (all of the tour when none is named)")
    parser.add_argument("--folder", type=Path, default=Path("notebooks"), help="where the tour is")
    parser.add_argument("--build", type=Path, default=Path("build"), help="where site/, figures/ and executed/ go")
    return parser.parse_args(arguments)


def chosen(tour: list[Declaration], wanted: Sequence[Path]) -> list[Declaration]:
    """The requested stops. Raises ``ValueError`` for one that is not on the tour."""
    by_name = {stop.name: stop for stop in tour}
    for path in wanted:
        if path.stem not in by_name:
            raise ValueError(f"{path} is not a notebook of the tour: name one of {', '.join(by_name)}.")
    return [by_name[path.stem] for path in wanted] or [stop for stop in tour if not (another() and stop.default_only)]


def place(build: Path) -> Path:
    """Where site and figures go: `build`, or a folder in it that is named after another model than the default one."""
    model = another()
    return build / "models" / re.sub(r"[^\w.-]+", "-", model) if model else build


def visit(stop: Declaration, site: Site, kept: Executed, figures: Path, progress: Progress) -> tuple[Run, list[str]]:
    """Run one notebook, keep its outputs and write its page; return the run and the sentences that make it fail."""
    notebook = read_notebook(stop.path)
    progress.begin(stop)
    run = run_notebook(stop, notebook, figures, progress.cell)
    kept.keep(notebook, run)
    return run, report.errors(run) + site.write_chapter(stop, notebook, run)


def run_tour(options: argparse.Namespace) -> list[str]:
    """Run the requested notebooks, write the site, print the table; return the sentences that make it fail."""
    tour = [declaration(path, read_notebook(path)) for path in numbered_notebooks(options.folder)]
    todo = chosen(tour, options.notebooks)
    build = place(options.build)
    site = Site((build / "site").resolve(), options.folder, tour)
    kept = Executed(build / "executed")
    figures = user_path(os.environ.get("FLEKE_FIGURES") or build / "figures").resolve()
    print(f"scale: {scale().name}" + (f", model: {another()}" if another() else ""), file=sys.stderr)
    runs: dict[str, Run] = {}
    problems = site.write_unrun()
    site.write_contents(runs)
    try:
        with Progress(todo, estimate=scale().name == report.DECLARED_FOR) as progress:
            for stop in todo:
                runs[stop.name], found = visit(stop, site, kept, figures, progress)
                problems += found
                site.write_contents(runs)
                if stop is todo[0] and len(todo) > 1:
                    page = site.folder / f"{stop.name}.html"
                    progress.say(f"{stop.name} is finished and can be read while the others run: {page}")
    finally:  # also after Ctrl-C
        problems += site.write_search()
    problems = list(dict.fromkeys(problems))
    slides = site.write_slides(figures)
    site.write_contents(runs)
    print(f"\n{report.table(list(runs.values()))}\n")
    for sentence in [*slides, *(sentence for run in runs.values() for sentence in report.warnings(run))]:
        print(f"warning: {sentence}")
    for sentence in (sentence for run in runs.values() for sentence in report.not_held(run)):
        print(sentence)
    for sentence in problems:
        print(f"error: {sentence}")
    print(f"figures: {figures}\nopen:    {site.folder / 'index.html'}")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if every notebook ran, 1 if one failed, 2 for a wrong call, 130 after Ctrl-C."""
    options = parse(arguments)
    try:
        return 1 if run_tour(options) else 0
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped by hand; the pages that were finished are in place", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
