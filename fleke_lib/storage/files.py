"""Atomic writes through a temporary name, the user's cache folder, and the repository's `data/` folder."""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import psutil

DATA = Path(__file__).parents[2] / "data"  # data files that ship with the repository


def cache() -> Path:
    """The user's cache folder for this project; the environment variable FLEKE_CACHE overrides it."""
    return Path(os.environ.get("FLEKE_CACHE") or platformdirs.user_cache_dir("fleke"))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def half_made(target: Path):
    """Create a file or folder atomically: yields a temporary path that is renamed to `target` at the end of the block.

    If the block raises, `target` stays as it was. The temporary path lies in a folder of its own beside `target`; the
    whole folder is deleted at the end. Folders that killed processes left behind are deleted by the next call there.
    Replacing a folder that exists takes two renames.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mine = f".half~{platform.node()}~"  # names the machine, since machines may share a home folder
    for left in target.parent.glob(f"{mine}*"):
        if not psutil.pid_exists(int(left.name.split("~")[2])):
            shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"{mine}{os.getpid()}~", dir=target.parent))
    replaces = target.is_dir()
    try:
        yield work / target.name
        if replaces:  # a folder that is not empty cannot be replaced in one step
            os.replace(target, work / "replaced")
        try:
            os.replace(work / target.name, target)
        except OSError:  # another process has created the folder in the meantime
            if replaces or not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text, whole or not at all."""
    with half_made(path) as half:
        half.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write a value as JSON, whole or not at all."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
