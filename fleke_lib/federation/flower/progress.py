"""How a run goes, as lines in a file: the server's app writes them, and whoever has started the run reads them.

Each line begins with its kind: "line", "status" (which the next one replaces), "end" (how many members have replied to
everything, and of how many), or "failed" (why).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """The lines in one file."""

    path: Path

    def line(self, text: str) -> None:
        self._write("line", text)

    def status(self, text: str) -> None:
        self._write("status", text)

    def end(self, done: int, members: int) -> None:
        self._write("end", f"{done} {members}")

    def failed(self, error: Exception) -> None:
        self._write("failed", f"{type(error).__name__}: {error}")

    def read(self, start: int = 0) -> Iterator[tuple[str, str]]:
        """Kind and text of whole lines, from the line with this number."""
        if self.path.is_file():
            whole, _, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
            for line in whole.split("\n")[start:] if whole else ():
                kind, _, text = line.partition(" ")
                yield kind, text

    def _write(self, kind: str, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{kind} {' '.join(text.split())}\n")
