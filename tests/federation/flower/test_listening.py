"""A node's process at its socket: turns are answered one after another, and nothing that comes there stops it."""

import socket
import stat
import threading
import time

import pytest

from fleke_lib.federation.flower import listening as module
from fleke_lib.federation.flower.listening import listening, serve


def turn(data):
    if data == b"bad":
        raise ValueError("these 3 bytes are not a turn")
    if data == b"full":
        raise OSError("No space left on device")
    return data[::-1]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Where a node listens, and what it says."""
    monkeypatch.setattr(module, "LOOK", 0.05)
    monkeypatch.setattr(module, "SLOWEST", 0.5)
    going, said, path = threading.Event(), [], tmp_path / "node"
    with listening(path) as line:
        thread = threading.Thread(target=serve, args=(line, turn, lambda: not going.is_set(), said.append))
        thread.start()
        yield path, said
        going.set(), thread.join(5)
        assert not thread.is_alive()
    assert not path.exists()


def asked(path, data):
    """What the relay does: the first byte and the reply."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        line.sendall(len(data).to_bytes(8, "big") + data)
        with line.makefile("rb") as answers:
            refused, size = answers.read(1), int.from_bytes(answers.read(8), "big")
            return refused, answers.read(size)


def test_turns_are_answered_and_refusals_are_told(served):
    path, said = served
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    big = bytes(range(256)) * 40_000
    assert asked(path, b"abc") == (b"\0", b"cba") and asked(path, big) == (b"\0", big[::-1])
    assert asked(path, b"bad") == (b"\1", b"these 3 bytes are not a turn")
    assert asked(path, b"full") == (b"\1", b"No space left on device")
    end = time.monotonic() + 5
    while len(said) < 2 and time.monotonic() < end:  # it is said after the answer was sent
        time.sleep(0.01)
    assert said == ["refused: these 3 bytes are not a turn", "refused: No space left on device"]


@pytest.mark.parametrize("sent", [b"", b"\0" * 3, (9).to_bytes(8, "big") + b"half", (2**62).to_bytes(8, "big")])
def test_who_sends_half_or_too_much_or_nothing_stops_nobody(served, sent):
    path, _ = served
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        line.sendall(sent)
        assert asked(path, b"abc") == (b"\0", b"cba")  # after the patience with the first
    assert asked(path, b"abcd") == (b"\0", b"dcba")


def test_the_socket_of_a_killed_node_is_replaced(tmp_path):
    path = tmp_path / "node"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert path.is_socket()
    with listening(path):
        assert path.is_socket()
    assert not path.exists()


def test_a_path_that_is_in_use_or_too_long_is_refused(tmp_path):
    path = tmp_path / "node"
    with listening(path), pytest.raises(ValueError, match="end the node that has it"), listening(path):
        pass
    path.write_text("of somebody else")
    with pytest.raises(ValueError, match="cannot be made"), listening(path):
        pass
    assert path.read_text() == "of somebody else"
    with pytest.raises(ValueError, match="give a shorter --socket"), listening(tmp_path / ("x" * 100)):
        pass
