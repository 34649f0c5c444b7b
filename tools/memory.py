"""The peak memory of a process and its children, by sampling.

The sum of resident sizes counts a page that two processes share twice, so it can overestimate.
"""

import threading
from types import TracebackType

import psutil

INTERVAL = 0.2  # seconds between two samples: shorter than any cell that allocates much


def resident_bytes(pid: int) -> int:
    """Resident bytes of a process and all its descendants now; zero if it has ended."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # ended since it was listed
            continue
    return total


class PeakMemory:
    """``with PeakMemory(pid) as peak: ...``; then ``peak.gb`` is the greatest sampled sum, in 10^9 bytes."""

    def __init__(self, pid: int, interval: float = INTERVAL) -> None:
        self._pid, self._interval = pid, interval
        self._bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def gb(self) -> float:
        """The peak so far, in 10^9 bytes."""
        return self._bytes / 1e9

    def _sample(self) -> None:
        self._bytes = max(self._bytes, resident_bytes(self._pid))

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def __enter__(self) -> "PeakMemory":
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
