"""The blind server in a process of its own, which a test can kill: messages over a socket on loopback.

A message is a kind, a body and the sender's name; the answer is a status and bytes. The kind "limit" bounds
the size that files of this process may have, as a full disk does; a body of 0 lifts the bound.
"""

import contextlib
import multiprocessing
import resource
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.sealing.exchange import BlindServer
from fleke_lib.federation.sealing.store import SealedStore
from tests.federation.sample_packets import RULES
from tests.federation.sealing.members import GROUP

PROCESSES = multiprocessing.get_context("forkserver")  # the child begins with the library loaded, and nothing else
PROCESSES.set_forkserver_preload([__name__])


@dataclass
class Remote:
    """The server's process as a client sees it, with the interface of a handler."""

    process: BaseProcess
    line: socket.socket

    def handle(self, kind: str, body: bytes, sender: str = "") -> bytes:
        """The answer to one message. Raises Refused with the server's reason, ConnectionError if it is gone."""
        _send(self.line, [kind.encode(), body, sender.encode()])
        status, answer = _receive(self.line)
        if status != b"ok":
            raise Refused(answer.decode())
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


@contextlib.contextmanager
def served(store: Path) -> Iterator[Remote]:
    """A server's process over this file; it is killed at the end."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=serve, args=(store, sender))
    process.start()
    try:
        with socket.create_connection(("127.0.0.1", receiver.recv()), 60) as line:
            yield Remote(process, line)
    finally:
        process.kill()
        process.join()
        process.close(), receiver.close(), sender.close()


def serve(path: Path, port) -> None:
    """Serve one connection after another until the process is killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with SealedStore(path, RULES, GROUP) as store, socket.create_server(("127.0.0.1", 0)) as door:
        server = BlindServer(store)
        port.send(door.getsockname()[1])
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
