"""A node's process: it holds the node and its model, and answers turns at a socket on its own machine.

`flower.relay` is the other side, and says what crosses. Whoever can open the socket can send turns. It therefore stands
in a folder that belongs to the node's owner alone.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fleke_lib.federation.flower.turns import MOST_BYTES

LOOK = 1.0  # seconds between two looks whether to go on
SLOWEST = 60.0  # seconds that a relay may take for the bytes of a turn
LONGEST_PATH = 100  # bytes of a socket's path that all systems take


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket at a path; one that a killed node has left there is replaced.

    Raises:
        ValueError: the path is too long for a socket, or something else is there, such as the socket of a running node.
    """
    if len(str(path).encode()) > LONGEST_PATH:
        raise ValueError(f"the socket's path {path} has more than {LONGEST_PATH} bytes: give a shorter --socket.")
    with socket.socket(socket.AF_UNIX) as line:
        try:
            if _left_behind(path):
                path.unlink(missing_ok=True)
            line.bind(str(path))
        except OSError as error:
            raise ValueError(f"the socket {path} cannot be made ({error}): end the node that has it.") from None
        path.chmod(0o600)
        line.listen()
        try:
            yield line
        finally:
            path.unlink(missing_ok=True)


def _left_behind(path: Path) -> bool:
    """Whether a socket is there at which nobody listens."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as line:
            try:
                line.connect(str(path))
            except ConnectionRefusedError:
                return True
    return False


def serve(
    line: socket.socket, turn: Callable[[bytes], bytes], going: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Answer one turn after another, as long as `going` says so.

    Args:
        turn: gives the reply to a turn, such as `Node.turn`; what it raises is told to the relay, and said here.
    """
    line.settimeout(LOOK)
    while going():
        try:
            caller, _ = line.accept()
        except TimeoutError:
            continue
        with caller:
            caller.settimeout(SLOWEST)
            try:
                _answer(caller, turn)
            except OSError as error:
                say(f"a relay was not answered ({error})")
            except ValueError as error:
                say(f"refused: {error}")


def _answer(caller: socket.socket, turn: Callable[[bytes], bytes]) -> None:
    """Read a turn, and send its reply. Raises ValueError after a refusal was sent."""
    with caller.makefile("rb") as read:
        size = int.from_bytes(read.read(8), "big")
        data = read.read(size) if size <= MOST_BYTES else b""
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes of a turn of {size} came.")
    try:
        reply = turn(data)
    except (ArithmeticError, OSError, RuntimeError, ValueError) as error:
        said = str(error).encode()
        caller.sendall(b"\1" + len(said).to_bytes(8, "big") + said)
        raise ValueError(error) from error
    caller.sendall(b"\0" + len(reply).to_bytes(8, "big") + reply)
