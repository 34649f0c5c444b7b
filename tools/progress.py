"""The progress of a whole run: which notebook of how many, the minutes so far, the minutes to go as declared.

In a terminal this is one line that renews itself every second. Elsewhere, as in a log, every notebook is a plain line
when it begins.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from tools.declared import Declaration

BAR = "{desc} |{bar:20}|"
EVERY = 1.0  # seconds between two renewals of the line


class Progress:
    """``with Progress(todo) as progress:``, and then `begin` with each notebook and `cell` with each of its cells.

    Args:
        todo: the notebooks that will run, in order.
        estimate: whether the declared minutes apply; without, no minutes to go are shown.
        stream: where to show it, stderr by default. clock: seconds from any start.
    """

    def __init__(
        self,
        todo: Sequence[Declaration],
        *,
        estimate: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._todo, self._estimate, self._clock = tuple(todo), estimate, clock
        self._stream = stream or sys.stderr
        self._number, self._cell = 0, ""
        self._start = self._begun = clock()
        self._stop = threading.Event()
        self._bar: tqdm | None = None

    def begin(self, notebook: Declaration) -> None:
        """This notebook of the list begins."""
        self._number, self._cell = self._todo.index(notebook) + 1, ""
        self._begun = self._clock()
        if self._bar is None:
            print(self.sentence(), file=self._stream, flush=True)

    def cell(self, number: int, cells: int) -> None:
        """Cell `number` of the notebook's `cells` code cells begins."""
        self._cell = f", cell {number} of {cells}"
        self._renew()

    def say(self, words: str) -> None:
        """Show a line that stays, above the progress."""
        if self._bar is None:
            print(words, file=self._stream, flush=True)
        else:
            self._bar.write(words, file=self._stream)

    def sentence(self) -> str:
        """`notebook 3 of 8: 02_editing, cell 7 of 21; 9 minutes so far, about 17 to go`."""
        if not self._number:
            return f"{len(self._todo)} notebooks"
        here = f"notebook {self._number} of {len(self._todo)}: {self._todo[self._number - 1].name}{self._cell}"
        to_go = f", about {self.to_go():.0f} to go" if self._estimate else ""
        return f"{here}; {self.so_far():.0f} minutes so far{to_go}"

    def so_far(self) -> float:
        """Minutes since the run began."""
        return (self._clock() - self._start) / 60

    def to_go(self) -> float:
        """The declared minutes of all later notebooks, and what is left of this one's."""
        here, *later = self._todo[max(0, self._number - 1) :]
        spent = (self._clock() - self._begun) / 60
        return max(0.0, here.minutes - spent) + sum(notebook.minutes for notebook in later)

    def _renew(self) -> None:
        if self._bar is not None:
            self._bar.set_description_str(self.sentence(), refresh=False)
            self._bar.n = self.so_far() / max(1e-9, self.so_far() + self.to_go())
            self._bar.refresh()

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            self._renew()

    def __enter__(self) -> "Progress":
        if self._stream.isatty():
            self._bar = tqdm(total=1, bar_format=BAR, file=self._stream, dynamic_ncols=True)
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._stop.set()
            self._thread.join()
            self._bar.close()
