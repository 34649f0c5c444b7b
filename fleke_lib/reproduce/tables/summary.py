"""A finished table in short: means with intervals, differences in pairs, and its Markdown."""

from collections.abc import Mapping, Sequence

from fleke_lib.evaluation.results import difference
from fleke_lib.reproduce.tables.catalogue import Table
from fleke_lib.reproduce.tables.results import COLUMNS, Bench, RowResult
from fleke_lib.reproduce.tables.rows import USES
from fleke_lib.storage.files import DATA, part_of_repository, read_json

FOLDER = DATA / "reproduction" / "tables"
PAIRED = ("score", "top1")
HARM = ("perplexity", "divergence", "battery")
HEAD = ("", "efficacy", "top-1", "paraphrase", "specificity", "score", "perplexity", "KL", "battery")


def summary(table: Table, bench: Bench, rows: Sequence[RowResult]) -> dict:
    """What is kept of a table: no value of a single fact."""
    found = {row.name: row.evaluation(bench.scenario) for row in rows}
    reference = found.get(table.reference)
    return {
        "title": table.title,
        "facts": len(bench.scenario.facts),
        "clients": table.clients,
        "slots": table.slots,
        "reference": table.reference,
        "settings": {
            row.name: {name: getattr(bench.settings, name) for name in USES[row.name]}
            for row in rows
            if row.name in USES
        },
        "rows": {
            row.name: {
                "metrics": {
                    column: [getattr(found[row.name], column), *found[row.name].interval(column)] for column in COLUMNS
                },
                "harm": dict(row.harm),
                "seconds": dict(row.seconds),
                "against the reference": {
                    column: difference(found[row.name], reference, column)
                    for column in PAIRED
                    if reference is not None and row.name != table.reference
                },
            }
            for row in rows
        },
    }


def kept(name: str) -> dict:
    """A table's summary as it ships. Raises FileNotFoundError for a table that does not."""
    return read_json(part_of_repository(FOLDER / f"{name}.json"))


def markdown(found: Mapping) -> str:
    """The rows as a Markdown table, and under it their differences from the reference, in pairs."""
    rows = found["rows"]
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    lines += ["| " + " | ".join([name, *_cells(row)]) + " |" for name, row in rows.items()]
    pairs = {name: row["against the reference"] for name, row in rows.items() if row["against the reference"]}
    if pairs:
        lines += ["", f"Differences from {found['reference']}, in pairs of the same facts:", ""]
        lines += ["| | score | top-1 |", "|---|---|---|"]
        lines += [f"| {name} | {_signed(pair['score'])} | {_signed(pair['top1'])} |" for name, pair in pairs.items()]
    return "\n".join(lines)


def _cells(row: Mapping) -> list[str]:
    plain = {name: f"{row['metrics'][name][0]:.3f}" for name in COLUMNS}
    spread = {name: "{:.3f} [{:.3f}, {:.3f}]".format(*row["metrics"][name]) for name in PAIRED}
    harm = [f"{row['harm'][name]:.3f}" if name in row["harm"] else "" for name in HARM]
    return [(plain | spread)[name] for name in COLUMNS] + harm


def _signed(values: Sequence[float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*values)
