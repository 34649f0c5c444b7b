"""A SQLite file whose deletions leave no bytes behind.

Deleting is not erasing: most databases mark a row as free and leave its bytes in the file, in a log or in a journal.
Three settings together leave nothing behind:

- `secure_delete=ON` overwrites deleted content with zeros.
- `journal_mode=DELETE` removes the journal, a copy of the old pages, at the end of a change. WAL and PERSIST keep it.
- `auto_vacuum=FULL` truncates free pages. Without it, an upload that is interrupted while it fills free pages is rolled
  back, but its bytes stay in these pages: SQLite's journal does not save the contents of free pages.

One gap remains. SQLite truncates the file after it has removed the journal. A process that is killed between the two
steps leaves deleted bytes after the end of the database. Opening the file again calls `cut_off`, which removes them.

All this concerns the file only. A database cannot reach blocks that the file system has freed, copies inside a
solid-state disk, snapshots and backups; an encrypted disk whose key is destroyed covers those.

`synchronous=EXTRA` waits for the disk, also for the removal of the journal: acknowledged writes survive a crash.
"""

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

SETTINGS: Mapping[str, int | str] = {  # auto_vacuum first: it holds only for a file that is still empty
    "auto_vacuum": 1,
    "secure_delete": 1,
    "journal_mode": "delete",
    "synchronous": 3,  # EXTRA
    "temp_store": 2,  # no temporary files
    "foreign_keys": 1,
}


def configure(db: sqlite3.Connection, schema: str = "main") -> None:
    """Apply all settings to a file: the main one, or an attached one by its name.

    Raises sqlite3.DatabaseError if one of them does not take effect on this file.
    """
    for name, value in SETTINGS.items():
        db.execute(f"PRAGMA {schema}.{name} = {value}")
        if db.execute(f"PRAGMA {schema}.{name}").fetchone() != (value,):
            raise sqlite3.DatabaseError(f"{name} is not {value} there")


def cut_off(db: sqlite3.Connection, path: Path, schema: str = "main") -> None:
    """Truncate the file to the pages that the database counts."""
    if _beyond(db, path, schema) > 0:  # perhaps another process is writing: check again under an exclusive lock
        db.execute("BEGIN EXCLUSIVE")
        try:
            if (beyond := _beyond(db, path, schema)) > 0:
                os.truncate(path, path.stat().st_size - beyond)
        finally:
            db.execute("COMMIT")


def _beyond(db: sqlite3.Connection, path: Path, schema: str) -> int:
    """Number of bytes in the file after the last page that the database counts."""
    (pages,), (size,) = (db.execute(f"PRAGMA {schema}.{what}").fetchone() for what in ("page_count", "page_size"))
    return path.stat().st_size - pages * size
