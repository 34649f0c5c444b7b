"""Atomic writes through a temporary name, the user's cache folder, and the folder of the data that is shipped."""

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

INSTALLED = Path(__file__).parents[1] / "data"  # where a wheel puts them
DATA = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[2] / "data"  # data files; else those of the checkout


def cache() -> Path:
    """The user's cache folder for this project; the environment variable FLEKE_CACHE overrides it."""
    return user_path(os.environ.get("FLEKE_CACHE") or platformdirs.user_cache_dir("fleke"))


def user_path(given: str | Path) -> Path:
    """A path as a user gives it; `~` at its beginning is the home folder, which only a shell expands otherwise."""
    return Path(os.path.expanduser(given))


def part_of_repository(path: Path) -> Path:
    """The path of a data file or folder that is shipped. Raises FileNotFoundError if it is not there."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path}, a part of the package, is missing: install the package again with pip, or work in a checkout of "
            "the repository."
        )
    return path


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def half_made(target: Path):
    """Create a file or folder atomically: yields a temporary path that is renamed to `target` at the end of the block.

    If the block raises, `target` stays as it was. The temporary path lies in a folder of its own beside `target`; the
    whole folder is deleted at the end. Folders that killed processes left behind are deleted by the next call there.
    Nothing else is deleted: in a folder that exists already, files of the same names are replaced one by one, and all
    other files stay.

    Raises:
        ValueError: a file would replace a folder, or a folder a file.
    """
    target = Path(os.path.abspath(user_path(target)))  # "." has no name
    target.parent.mkdir(parents=True, exist_ok=True)
    mine = f".half~{platform.node()}~"  # names the machine, since machines may share a home folder
    for left in target.parent.glob(f"{mine}*"):
        if not psutil.pid_exists(int(left.name.split("~")[2])):
            shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"{mine}{os.getpid()}~", dir=target.parent))
    merges = target.is_dir()
    try:
        yield work / target.name
        _move(work / target.name, target, merges)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(made: Path, target: Path, merges: bool) -> None:
    """Give what was made its name. merges: into a folder that was there before the work began."""
    _check_kind(made, target)
    if merges:
        inside = {path: target / path.relative_to(made) for path in sorted(made.rglob("*"))}
        for path, to in inside.items():  # all before the first is moved
            _check_kind(path, to)
        for path, to in inside.items():
            if path.is_dir():
                to.mkdir(exist_ok=True)
            else:
                os.replace(path, to)
        return
    try:
        os.replace(made, target)
    except OSError:  # another process has created the folder in the meantime
        if not target.is_dir():
            raise


def _check_kind(made: Path, target: Path) -> None:
    """Raises ValueError if one of the two is a file and the other a folder."""
    if made.is_dir() and target.is_file():
        raise ValueError(f"{target} is a file, but a folder is to be written there: give the name of a folder.")
    if made.is_file() and target.is_dir():
        raise ValueError(f"{target} is a folder, but a file is to be written there: give the name of a file.")


def write_text(path: Path, text: str) -> Path:
    """Write a text, whole or not at all."""
    path = user_path(path)
    with half_made(path) as half:
        half.write_text(text, encoding="utf-8")
    return path


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote. Raises ValueError if the file is not whole."""
    try:
        return json.loads(user_path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a whole JSON file ({error}): delete it and run again.") from None


def write_json(path: Path, value: Any) -> Path:
    """Write a value as JSON, whole or not at all."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
