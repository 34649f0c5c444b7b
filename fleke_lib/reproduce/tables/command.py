"""The tables of hundreds of facts: every method, with its harm, on the facts of a table.

Each row is kept when it is measured, so an interrupted call goes on where it was. Opponents are tuned first, on facts
that no table reports; their settings are kept in data/reproduction/tuned.json.
"""

import argparse
from pathlib import Path

from fleke_lib.edit.moments import second_moments
from fleke_lib.edit.trajectories import shareable
from fleke_lib.federation import Compression
from fleke_lib.figures import sharing
from fleke_lib.model.language_model import LanguageModel, load_model
from fleke_lib.reproduce.papers.parts import choose
from fleke_lib.reproduce.scenarios.scenario import Scenario
from fleke_lib.reproduce.tables.catalogue import TABLES, Table, named, rows_of
from fleke_lib.reproduce.tables.packets import compressions
from fleke_lib.reproduce.tables.results import Bench
from fleke_lib.reproduce.tables.rows import USES
from fleke_lib.reproduce.tables.settings import settings_for
from fleke_lib.reproduce.tables.summary import kept, markdown, summary
from fleke_lib.reproduce.tables.tuning import BATCH, tune
from fleke_lib.storage.files import user_path, write_json, write_text

BEGIN, END = "<!-- table {}: made by fleke_lib.reproduce, edit nothing here -->", "<!-- end of table {} -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tables`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="the table; without it, all names are listed")
    parser.add_argument(
        "--facts", type=user_path, metavar="FILE", help="the records of a table that is not of the atlas"
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="ROW", help="measure these rows (all)")
    parser.add_argument("--to", type=user_path, metavar="FOLDER", help="where rows and tables go (build/tables)")
    parser.add_argument("--tune", action="store_true", help="tune the opponents on records 1000 to 1999 of --facts")
    parser.add_argument("--packets", action="store_true", help="compare packets by their bytes, on the same records")
    parser.add_argument("--device", default="cpu", help="where the model runs, such as cuda (cpu)")
    parser.add_argument(
        "--readme", type=user_path, metavar="FILE", help="measure nothing; put kept tables in this text"
    )


def main(arguments: argparse.Namespace) -> int:
    """List the tables, tune opponents, compare packets, measure a table, or put the kept tables into a text."""
    if arguments.readme:
        write_text(arguments.readme, spliced(arguments.readme.read_text(encoding="utf-8")))
    elif arguments.tune:
        tune(load_model(device=arguments.device), arguments.facts, lambda line: print(line, flush=True))
    elif arguments.packets:
        measured, whole = compressions(
            load_model(device=arguments.device), arguments.facts, lambda line: print(line, flush=True)
        )
        print(sharing.compressions(measured, whole, Compression(), "packets-dense").path)
    elif arguments.name is None:
        print("\n".join(f"{table.name:<18} {table.title}" for table in TABLES.values()))
    else:
        lm, to = load_model(device=arguments.device), arguments.to or Path("build/tables")
        measure(lm, named(arguments.name), arguments.facts, tuple(arguments.only), to)
    return 0


def measure(lm: LanguageModel, table: Table, file: Path | None, only: tuple[str, ...], to: Path) -> None:
    """Measure a table's rows, print each when it is done, and write the table."""
    facts = choose(found := table.facts(file), shareable(lm, found)).facts
    scenario = Scenario(lm, facts, second_moments(lm), 0, table.clients, table.slots, BATCH, table.by)
    names, rows = rows_of(table, only), []
    settings = settings_for(len(facts)) if any(name in USES for name in names) else None
    bench = Bench(scenario, settings, to / table.name)
    for name in names:
        rows.append(bench.row(name))
        one, took = rows[-1].evaluation(scenario), sum(rows[-1].seconds.values())
        print(f"{name:<42} score {one.score:.3f}  top-1 {one.top1:.3f}  {took:6.0f} s", flush=True)
    result = summary(table, bench, rows)
    write_json(to / f"{table.name}.json", result)
    write_text(to / f"{table.name}.md", f"# {table.title}\n\n{markdown(result)}\n")


def spliced(text: str) -> str:
    """The text with every kept table between its two marks, where it has them."""
    for name in TABLES:
        begin, end = BEGIN.format(name), END.format(name)
        if begin in text and end in text:
            before, after = text[: text.index(begin)], text[text.index(end) :]
            text = f"{before}{begin}\n{markdown(kept(name))}\n{after}"
    return text
