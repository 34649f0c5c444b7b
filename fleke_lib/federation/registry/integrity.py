"""What is wrong with a registry's file: pages that SQLite cannot use, and rows that are not what was stored."""

import sqlite3
from dataclasses import dataclass
from typing import Literal

from fleke_lib.federation.registry.rows import COLUMNS, fault_of

MOST = 20  # messages about pages


@dataclass(frozen=True)
class Fault:
    """A row whose content has changed since it was stored or cannot be read, or, with `id` "", damage to the file."""

    id: str
    what: str


def damage(db: sqlite3.Connection, check: Literal["integrity_check", "quick_check"] = "integrity_check") -> list[str]:
    """What SQLite finds wrong with the file's pages, at most `MOST` messages.

    check: the quick one reads every page, but does not compare the indices with the table.
    """
    try:
        said = [line for (text,) in db.execute(f"PRAGMA {check}({MOST})") for line in text.splitlines()]
    except sqlite3.Error as error:
        return [str(error)]
    return [line for line in said if line != "ok" and not line.startswith("***")]


def faults(db: sqlite3.Connection) -> list[Fault]:
    """Damage to the file, then every row that is not what was stored or cannot be read, sorted by id."""
    found = [Fault("", f"the file is damaged ({what})") for what in damage(db)]
    by_index = _ids(db, "SELECT id FROM packets ORDER BY id")  # two ways to the ids: each reads other pages
    for id in sorted(by_index | _ids(db, "SELECT id FROM packets NOT INDEXED"), key=str):
        try:
            row = db.execute(f"SELECT {', '.join(COLUMNS)} FROM packets WHERE id = ?", (id,)).fetchone()
            what = "it is not found by its id" if row is None else fault_of(row)
        except sqlite3.Error as error:
            what = f"it cannot be read ({error})"
        if what:
            found.append(Fault(id, what))
    return found


def _ids(db: sqlite3.Connection, query: str) -> set[str]:
    """The ids up to the first that cannot be read."""
    ids = set()
    try:
        for (id,) in db.execute(query):
            ids.add(id)
    except sqlite3.Error:  # `damage` has named it
        pass
    return ids
