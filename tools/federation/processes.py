"""Processes with a log each, their environment, and the end of all of them."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT, HOST = Path(__file__).parents[2], "127.0.0.1"


class Processes:
    """What was started, each with a log of its own; `stop` ends all of it, children included."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, command: Sequence[str]) -> Path:
        """Start a process in a process group of its own; returns its log."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            self.running[name] = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=file, stderr=file, start_new_session=True
            )
        return log

    def call(self, command: Sequence[str]) -> str:
        """Run a command to its end. Raises RuntimeError with its output if it fails."""
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:3])} has failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def kill(self, name: str) -> None:
        """Kill a process and its children at once, as a machine that loses its power."""
        children = self._children(name)
        self._signal(name, signal.SIGKILL)
        _end(children)
        self.running.pop(name).wait()

    def stop(self) -> None:
        """End everything: politely first, and after ten seconds at once."""
        children = []
        for name in self.running:
            children += self._children(name)
            self._signal(name, signal.SIGTERM)
        end = time.monotonic() + 10
        for name, process in self.running.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            self._signal(name, signal.SIGKILL)  # the group, whose leader may be gone before its children
        _end(children)
        self.running = {}

    def _children(self, name: str) -> list[psutil.Process]:
        """A process's children and theirs: Flower puts some of them in process groups of their own."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.running[name].pid).children(recursive=True)
        return []

    def _signal(self, name: str, kind: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running[name].pid, kind)


def _end(children: list[psutil.Process]) -> None:
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()  # by psutil, which checks that the number still is this process


def environment() -> dict[str, str]:
    """What all processes run with: this checkout, one thread, and no network but the loopback."""
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own}
