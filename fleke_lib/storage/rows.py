"""Named rows of tensors in safetensors files: found by the files' headers alone, and read one row at a time.

A file holds stacked tensors, whose first dimension counts the rows, and in its metadata the rows' names, in their
order. Files are written once and never changed. A file's header is therefore read once in a process, and tensors are
mapped into memory: only the rows that are asked for are read from disk.
"""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fleke_lib.storage.files import half_made, user_path

Place = tuple[Path, int]  # a file and a row in it


def files_in(folder: Path) -> list[Path]:
    """The files of a folder, in the order of their names; none where there is no folder."""
    return sorted(user_path(folder).glob("*.safetensors"))


def places(files: Iterable[Path]) -> dict[str, Place]:
    """Where each row is, by its name; of two rows of one name the one in the later file. No tensor is read.

    A file that is not whole is left out with a warning: its rows are computed again, and no other row needs it.
    """
    found: dict[str, Place] = {}
    for path in files:
        try:
            now = path.stat()
            names = _names(path, now.st_mtime_ns, now.st_size)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            warnings.warn(f"{path} is left out, it is not a whole file of rows ({error}): delete it.", stacklevel=2)
            continue
        found |= zip(names, ((path, row) for row in range(len(names))), strict=True)
    return found


def read_rows(wanted: Sequence[Place], kinds: Sequence[str] | None = None) -> list[dict[str, Tensor]]:
    """The tensors of each row by their kind, each file opened once. kinds: which ones; all by default."""
    by_file: dict[Path, list[int]] = {}
    for number, (path, _) in enumerate(wanted):
        by_file.setdefault(path, []).append(number)
    found: list[dict[str, Tensor]] = [{}] * len(wanted)
    for path, numbers in by_file.items():
        with safe_open(path, "pt") as file:
            mapped = {kind: file.get_tensor(kind) for kind in (kinds or file.keys())}
        for number in numbers:  # copies: a view would keep the whole file mapped
            found[number] = {kind: rows[wanted[number][1]].clone() for kind, rows in mapped.items()}
    return found


def write_rows(path: Path, rows: Mapping[str, Mapping[str, Tensor]], about: Mapping[str, str] | None = None) -> Path:
    """Write named rows, each with tensors of the same kinds and shapes, as one file. about: further metadata."""
    kinds = next(iter(rows.values()))
    tensors = {kind: torch.stack([row[kind] for row in rows.values()]) for kind in kinds}
    with half_made(path) as half:
        save_file(tensors, half, metadata={"names": json.dumps(list(rows)), **(about or {})})
    return path


@lru_cache(maxsize=10_000)
def _names(path: Path, written: int, size: int) -> tuple[str, ...]:
    """The names of a file's rows; it is another file where its time of writing (in ns) or its size is another."""
    with safe_open(path, "pt") as file:
        return tuple(json.loads(file.metadata()["names"]))
