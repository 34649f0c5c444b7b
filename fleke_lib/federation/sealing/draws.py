"""Draws: all random bytes of a sealed federation, each under a label, so that a recorded run can be replayed.

Keys and nonces make every sealed packet different. A run that is replayed with the same draws has the same sealed
packets, byte for byte. A label names what the bytes are for, including a hash of what they encrypt: the same key and
nonce are therefore never used for two contents.

A record holds keys. Whoever has it can open what was sealed with it, also after the server has destroyed its keys. A
withdrawal therefore goes on with `without`, and a real client keeps no record at all.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from fleke_lib.storage.files import half_made, user_path

Label = tuple[str, ...]


class Draws:
    """Random bytes by label; a label gets the same bytes every time.

    Args:
        source: returns n random bytes; the operating system's by default.
        recorded: earlier draws, by label.
    """

    def __init__(
        self,
        source: Callable[[int], bytes] = os.urandom,
        recorded: Mapping[Label, bytes] = MappingProxyType({}),
    ) -> None:
        self._source, self._recorded = source, dict(recorded)

    def __call__(self, size: int, *label: str) -> bytes:
        """The bytes of a label, drawn now or earlier.

        Raises:
            ValueError: this label was recorded with another number of bytes.
        """
        if label not in self._recorded:
            self._recorded[label] = self._source(size)
        if len(found := self._recorded[label]) != size:
            raise ValueError(f"a draw has {len(found)} bytes and {size} are needed: give the record of the same run.")
        return found

    def without(self, words: Collection[str]) -> "Draws":
        """A copy that lacks the draws whose labels have one of these words: ids of packets, names of clients."""
        gone = set(words)
        return Draws(self._source, {label: drawn for label, drawn in self._recorded.items() if gone.isdisjoint(label)})

    def __len__(self) -> int:
        return len(self._recorded)

    def __repr__(self) -> str:
        return f"Draws({len(self)} recorded)"

    def save(self, path: str | Path) -> Path:
        """Write the record, atomically, to a file that only its owner can read. It holds keys."""
        path = user_path(path)
        with half_made(path) as half:
            half.touch(mode=0o600)
            half.write_text(json.dumps([[*label, drawn.hex()] for label, drawn in self._recorded.items()]), "utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Draws":
        """Read what `save` wrote; what is not recorded there is drawn anew.

        Raises:
            ValueError: the file is not a record.
        """
        try:
            rows = json.loads(user_path(path).read_text(encoding="utf-8"))
            return cls(recorded={tuple(map(str, label)): bytes.fromhex(drawn) for *label, drawn in rows})
        except (RecursionError, TypeError, ValueError):
            raise ValueError(f"{path} is not a record of draws: give a file that Draws.save wrote.") from None
