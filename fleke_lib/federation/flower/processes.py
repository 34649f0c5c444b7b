"""Flower's processes: the command of each, the files and the environment that it is given, and its end.

Flower is an installation of its own. This module only writes what its commands read, and imports nothing of it.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import psutil

from fleke_lib.storage.files import half_made

APP = """[project]
name = "carried"
version = "1.0.0"
description = "A federation of edits"
license = "MIT"
dependencies = []

[tool.flwr.app]
publisher = "fleke"

[tool.flwr.app.components]
serverapp = "server:server_app"
clientapp = "relay:client_app"

[tool.flwr.app.config]
"""
SERVER = 'from fleke_lib.federation.flower.apps import server_app\n\n__all__ = ["server_app"]\n'
HERE = "here"  # the name of the connection to the SuperLink
AGAIN = 5.0  # seconds until a process that has ended is started again
POLL = "0.2"  # seconds between two looks for a message that has come


def program(name: str) -> str:
    """The path of one of Flower's commands. Raises ValueError if Flower is not installed."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise ValueError(f"Flower is not installed here (no {path}): `make federation` installs it in .venv-flower.")
    return str(path)


def environment(home: Path) -> dict[str, str]:
    """What a process of Flower runs with: a folder of its own, no telemetry, nothing from a network but its peers."""
    beside = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH")]))
    own = {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PATH": beside}
    own |= {"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": POLL}
    return {**os.environ, **own}


def superlink(host: str, port: int, database: Path, authority: Path, certificate: Path, key: Path) -> list[str]:
    """The command of a SuperLink behind its door, which speaks TLS and takes nodes whose keys are registered."""
    tls = ["--ssl-ca-certfile", authority, "--ssl-certfile", certificate, "--ssl-keyfile", key]
    where = ["--host", host, "--port", port, "--database", database]
    how = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    program("flower-superlink")  # says what to do where Flower is not installed
    door = Path(__file__).with_name("superlink.py")
    return [sys.executable, "-P", str(door), *map(str, [*tls, *where, *how])]


def supernode(address: str, authority: Path, key: Path, port: int, socket: Path) -> list[str]:
    """The command of a SuperNode whose relay reaches the node's process at a socket; `port` is for itself."""
    to = ["--superlink", address, "--root-certificates", authority, "--auth-supernode-private-key", key]
    here = ["--host", "127.0.0.1", "--port", port, "--node-config", f'socket="{socket}"']
    return [program("flower-supernode"), *map(str, [*to, *here])]


def connection(home: Path, address: str, authority: Path) -> None:
    """Tell the command `flwr` where the SuperLink is."""
    home.mkdir(parents=True, exist_ok=True)
    at = f"address = {_toml(address)}\nroot-certificates = {_toml(str(authority))}\n"
    with half_made(home / "config.toml") as half:
        half.write_text(f'[superlink]\ndefault = "{HERE}"\n\n[superlink.{HERE}]\n{at}', encoding="utf-8")


def app(folder: Path, told: Mapping[str, str | int]) -> Path:
    """Flower's app: the relay for nodes, and the server with what it is told; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = "".join(f"{name} = {_toml(value)}\n" for name, value in told.items())
    relay = Path(__file__).with_name("relay.py").read_text(encoding="utf-8")
    for name, text in {"pyproject.toml": APP + config, "server.py": SERVER, "relay.py": relay}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _toml(value: str | int) -> str:
    """A value as TOML, whose basic strings have the escapes of JSON."""
    return json.dumps(value, ensure_ascii=False)


@contextlib.contextmanager
def running(
    command: Sequence[str], home: Path, mark: Path, output: BinaryIO | None = None
) -> Iterator[subprocess.Popen]:
    """A process of Flower that ends with the block, with all of its children.

    Args:
        home: its folder.
        mark: a file that names the process. One that was left behind there by a killed owner is ended first.
        output: where all that it prints goes; to where this process prints by default.
    """
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        pid, begun = mark.read_text().split()
        if (left := psutil.Process(int(pid))).create_time() == float(begun):
            end(left)
    process = subprocess.Popen(command, env=environment(home), stdout=output, stderr=output)
    try:
        mark.write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")
        yield process
    finally:
        with contextlib.suppress(psutil.Error):
            end(psutil.Process(process.pid))
        process.wait()
        mark.unlink(missing_ok=True)


# Flower says no reason when the SuperLink has answered 401.
SILENT = "if it gave no reason, the server does not know its key, or a clock is minutes off"


@dataclass
class Kept:
    """A process of Flower that is started again whenever it has ended; `close` ends it.

    A SuperNode ends when the SuperLink does not know its key yet. Why it has ended is said once.
    """

    command: Sequence[str]
    home: Path
    mark: Path
    say: Callable[[str], None]
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)
    _process: subprocess.Popen | None = None
    _next: float = 0.0
    _said: set[int] = field(default_factory=set, repr=False)

    def look(self) -> bool:
        """Start the process if it does not run; always true."""
        if self._process and (status := self._process.poll()) is not None:
            self.close()
            self._process, self._next = None, time.monotonic() + AGAIN
            if status not in self._said:
                self._said.add(status)
                name = Path(self.command[0]).name
                self.say(f"{name} has ended with status {status}: it is started again and again; {SILENT}")
        if not self._process and time.monotonic() >= self._next:
            self._process = self._stack.enter_context(running(self.command, self.home, self.mark))
        return True

    def close(self) -> None:
        self._stack.close()


def end(process: psutil.Process, patience: float = 10.0) -> None:
    """End a process and its children: politely first, and after some seconds at once."""
    family = [process, *process.children(recursive=True)]
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.terminate()
    _, left = psutil.wait_procs(family, patience)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


def wait_for(host: str, port: int, process: subprocess.Popen, patience: float = 120.0) -> None:
    """Wait until a process listens. Raises RuntimeError if it ends before, or does not listen in time."""
    last = time.monotonic() + patience
    while time.monotonic() < last and process.poll() is None:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"nobody listens at {host}:{port} (exit status {process.poll()}): see the lines above.")
