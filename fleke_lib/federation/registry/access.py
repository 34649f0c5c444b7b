"""Opening a registry's file, for reading alone where it cannot be written, and what to say when SQLite refuses."""

import os
import sqlite3
from pathlib import Path

from fleke_lib.federation.registry.erasure import configure, cut_off

GO_ON = "go on with a backup; `verify` says what cannot be read."
PATIENCE = 60.0  # seconds to wait for another process


def is_frozen(path: Path) -> bool:
    """Whether the file is there and cannot be changed; a change also writes a journal into its folder."""
    effective = os.access in os.supports_effective_ids
    return path.is_file() and not all(os.access(p, os.W_OK, effective_ids=effective) for p in (path, path.parent))


def connect(path: Path, tables: str, frozen: bool) -> sqlite3.Connection:
    """A connection to the file, in which each statement is a transaction, and its tables. Raises sqlite3.Error."""
    name = f"{path.absolute().as_uri()}?mode=ro" if frozen else path
    db = sqlite3.connect(name, timeout=PATIENCE, isolation_level=None, uri=frozen)
    try:
        if not frozen:
            configure(db)
        db.executescript(tables)  # changes nothing if they are there
        if not frozen:
            cut_off(db, path)
    except BaseException:
        db.close()
        raise
    return db


def explained(path: Path, error: sqlite3.Error) -> str:
    """One sentence about a file that did not open."""
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
        return f"{path} cannot be a registry, or is a damaged one ({error}): give a registry's file, or a new one."
    return trouble(path, error) or f"{path} cannot be a registry ({error}): give a registry's file, or a new one."


def trouble(path: Path, error: sqlite3.Error) -> str:
    """One sentence about a file that is locked, read-only or damaged, or whose disk is full or fails; else nothing."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # the rest says more exactly what happened
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{path} is locked by another process ({error}): try again when that one is done."
        case sqlite3.SQLITE_READONLY:
            return f"{path} cannot be written ({error}): give a copy in a folder where it can."
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return f"{path} is damaged ({error}): {GO_ON}"
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return f"{path} cannot grow, or its disk fails ({error}): nothing was stored; make room, and send it again."
    return ""
