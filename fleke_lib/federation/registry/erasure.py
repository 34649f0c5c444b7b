"""A SQLite file that forgets what it is told to forget.

Deleted is not erased: most databases mark a row as free and leave its bytes in the file, in a log or in a journal.
Three settings together leave nothing behind:

- `secure_delete=ON` writes zeros over what is deleted.
- `journal_mode=DELETE` removes the copy of the pages as they were when a change is done. WAL and PERSIST keep it.
- `auto_vacuum=FULL` cuts free pages off the file. Without it an upload that is interrupted while it fills free pages is
  rolled back, but its bytes stay in them: SQLite does not save the contents of pages that it holds to be empty.

One gap is left. SQLite cuts the file when it has removed the journal already, so that a process killed between the two
leaves bytes behind the end of a database that has forgotten them. `cut_off` is for whoever opens the file next.

This is about files. Blocks that the file system has freed, copies that a solid-state disk makes, snapshots and backups
are beyond a database; a disk that is encrypted and whose key is thrown away answers for those.

`synchronous=EXTRA` waits for the disk, also for the removal of the journal: what was acknowledged survives a crash.
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


def configure(db: sqlite3.Connection) -> None:
    """Set all that erasure needs. Raises sqlite3.DatabaseError where the file does not take a setting."""
    for name, value in SETTINGS.items():
        db.execute(f"PRAGMA {name} = {value}")
        if db.execute(f"PRAGMA {name}").fetchone() != (value,):
            raise sqlite3.DatabaseError(f"{name} is not {value} there")


def cut_off(db: sqlite3.Connection, path: Path) -> None:
    """Shorten the file to the pages that the database counts."""
    if _beyond(db, path) > 0:  # or another process is writing now: look again when none can be
        db.execute("BEGIN EXCLUSIVE")
        try:
            if (beyond := _beyond(db, path)) > 0:
                os.truncate(path, path.stat().st_size - beyond)
        finally:
            db.execute("COMMIT")


def _beyond(db: sqlite3.Connection, path: Path) -> int:
    """Bytes of the file behind the last page that the database counts."""
    (pages,), (size,) = (db.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "page_size"))
    return path.stat().st_size - pages * size
