"""Files that are whole or absent: writing by way of a temporary name, the user's cache, and what ships in `data/`."""

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

DATA = Path(__file__).parents[2] / "data"  # what ships with the repository


def cache() -> Path:
    """The user's cache of this project; the environment variable FLEKE_CACHE moves it."""
    return Path(os.environ.get("FLEKE_CACHE") or platformdirs.user_cache_dir("fleke"))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def half_made(target: Path):
    """A path beside `target` to make a file or folder at; renamed to `target` at the end, removed on an error.

    Its folder is this block's alone: other files there are removed at the end. What a killed process left is removed by
    the next one that makes something beside it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mine = f".half~{platform.node()}~"  # of this machine: a home may be shared
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
        except OSError:  # a folder that another process has made in the meantime
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
