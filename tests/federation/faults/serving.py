"""The blind server in a process of its own, which a test can kill: messages over a socket on loopback.

`python -m tests.federation.faults.serving STORE` prints its port and serves one connection after another. A message is
a kind, a body and the sender's name; the answer is a status and bytes. A message of the kind "limit" bounds the size
that files of this process may have, as a full disk does; a body of 0 lifts the bound.
"""

import contextlib
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.sealing.exchange import BlindServer
from fleke_lib.federation.sealing.store import SealedStore
from tests.federation.sample_packets import RULES
from tests.federation.sealing.members import GROUP

ROOT = Path(__file__).parents[3]


@dataclass
class Remote:
    """The server's process as a client sees it, with the interface of a handler."""

    process: subprocess.Popen
    line: socket.socket

    def handle(self, kind: str, body: bytes, sender: str = "") -> bytes:
        """The answer to one message. Raises Refused with the server's reason, ConnectionError if it is gone."""
        _send(self.line, [kind.encode(), body, sender.encode()])
        status, answer = _receive(self.line)
        if status != b"ok":
            raise Refused(answer.decode())
        return answer

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def served(store: Path) -> Iterator[Remote]:
    """A server's process over this file; it is killed at the end."""
    command = [sys.executable, "-m", "tests.federation.faults.serving", str(store)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), 60) as line:
                yield Remote(process, line)
        finally:
            process.kill()


def main(path: str) -> None:
    """Serve until the process is killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with SealedStore(path, RULES, GROUP) as store, socket.create_server(("127.0.0.1", 0)) as door:
        server = BlindServer(store)
        print(door.getsockname()[1], flush=True)
        while True:
            line, _ = door.accept()
            with line, contextlib.suppress(ConnectionError):
                while True:
                    kind, body, sender = _receive(line)
                    if kind == b"limit":
                        resource.setrlimit(resource.RLIMIT_FSIZE, (int(body) or hard, hard))
                        _send(line, [b"ok", b""])
                        continue
                    try:
                        answer = [b"ok", server.handle(kind.decode(), body, sender.decode())]
                    except ValueError as error:
                        answer = [b"refused", str(error).encode()]
                    _send(line, answer)


def _send(line: socket.socket, parts: list[bytes]) -> None:
    line.sendall(joined([joined(parts)]))


def _receive(line: socket.socket) -> list[bytes]:
    return cut_apart(_exactly(line, int.from_bytes(_exactly(line, 4), "little")))


def _exactly(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (more := line.recv(size - len(found))):
            raise ConnectionError("the other side is gone")
        found += more
    return found


if __name__ == "__main__":
    main(sys.argv[1])
