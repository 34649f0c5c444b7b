"""The tables by name: which facts, which federation, which rows."""

from dataclasses import dataclass
from typing import Literal

from fleke_lib.evaluation.results import checked
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import TUNED_ON, load_facts
from fleke_lib.reproduce.tables.rows import CENTRAL, FEDERATED, ROWS

Source = Literal["atlas", "counterfact", "zsre"]


@dataclass(frozen=True)
class Table:
    """One table.

    source: the data set; every other one than the atlas is a user's file. first, last: its records, the last excluded.
    rows: names of `ROWS`. reference: the row that the others are compared with in pairs.
    by, clients, slots: how `partition` distributes the facts.
    """

    name: str
    title: str
    source: Source
    first: int
    last: int
    rows: tuple[str, ...]
    reference: str = "MEMIT in one place, with text"
    by: str = "relation"
    clients: int = 8
    slots: int = 10

    def facts(self, file: str | None) -> tuple[Fact, ...]:
        """The facts of the table, from the atlas or from a user's file.

        Raises:
            ValueError: the table needs a file and there is none, or it has too few records.
        """
        if self.source == "atlas":
            found = load_facts("atlas")
        elif file is None:
            raise ValueError(f"the table {self.name!r} needs a file of {self.source} records: give --facts FILE.")
        else:
            found = load_facts(file)
        if len(found) < self.last:
            raise ValueError(f"{self.name} needs the records up to {self.last} and there are {len(found)}: give more.")
        return checked(found[self.first : self.last])


def _federation(name: str, title: str, first: int, last: int, source: Source = "atlas", **others) -> Table:
    return Table(name, title, source, first, last, (*FEDERATED, *CENTRAL), **others)


TABLES = {
    table.name: table
    for table in (
        _federation("atlas-100", "100 atlas facts", TUNED_ON, 211),
        _federation("atlas-300", "300 atlas facts", TUNED_ON, 411),
        _federation("atlas-480", "480 atlas facts", TUNED_ON, 591),
        _federation("counterfact-100", "CounterFact records 0 to 99", 0, 100, "counterfact", by="dirichlet", slots=3),
        _federation("counterfact-500", "CounterFact records 500 to 999", 500, 1000, "counterfact", by="dirichlet"),
        _federation("counterfact-1000", "CounterFact records 0 to 999", 0, 1000, "counterfact", by="dirichlet"),
    )
}


def named(name: str) -> Table:
    """The table of this name. Raises ValueError for an unknown name."""
    if name not in TABLES:
        raise ValueError(f"there is no table {name!r}: give one of {', '.join(TABLES)}.")
    return TABLES[name]


def rows_of(table: Table, only: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The table's rows, or some of them. Raises ValueError for an unknown name."""
    if unknown := [name for name in only if name not in ROWS]:
        raise ValueError(f"there is no row {unknown[0]!r}: give some of {', '.join(map(repr, ROWS))}.")
    return tuple(name for name in table.rows if not only or name in only)
