"""Messages between a client and a server: the line that carries and counts them, offers, and several parts in one."""

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

ID = 32  # bytes of an id or a tag
LENGTH = 4  # bytes of the length in front of each packet of an answer

Tap = Callable[[str, bytes, bytes], None]  # called with every message: kind, bytes sent, bytes received


@dataclass(frozen=True, eq=False)
class Offers:
    """What other clients have published in one slot, in the order of the ids; z and h arrive rounded to 16 bits."""

    ids: tuple[str, ...]
    z: Float[Tensor, "offers d_model"]
    h: Float[Tensor, "offers d_model"]


class Handler(Protocol):
    """A server as a line sees it: bytes in and bytes out."""

    def handle(self, kind: str, body: bytes, sender: str = "") -> bytes: ...


@dataclass
class Line:
    """One client's connection to a server.

    tap: called with every message: kind, bytes sent, bytes received.
    sent, received: bytes so far.
    """

    server: Handler
    client: str
    tap: Tap = lambda kind, sent, received: None
    sent: int = field(default=0, init=False)
    received: int = field(default=0, init=False)

    def call(self, kind: str, body: bytes) -> bytes:
        """Send one message, and return the server's answer."""
        answer = self.server.handle(kind, body, self.client)
        self.sent, self.received = self.sent + len(body), self.received + len(answer)
        self.tap(kind, body, answer)
        return answer


@dataclass(frozen=True)
class Connected:
    """A federation whose clients are connected.

    begin: tells the server which slot is the present one. clients: each client's connection, by name.
    """

    begin: Callable[[int], None]
    clients: Mapping[str, Line]


def asked(body: bytes, what: str = "a slot") -> tuple[int, str, str]:
    """The number (of a slot), the asking client and the last id of the page before in a message; "" for the first page.

    Raises ValueError if the message is not a list of these.
    """
    try:
        number, asker, *rest = json.loads(body)
        (after,) = rest or [""]
    except (RecursionError, TypeError, ValueError):
        number, asker, after = None, None, None
    if type(number) is not int or not 0 <= number < 2**31 or type(asker) is not str or type(after) is not str:
        raise ValueError(f"these {len(body)} bytes do not name {what} and a client: send them as a JSON list.")
    return number, asker, after


def joined(parts: Iterable[bytes]) -> bytes:
    """Several parts as one message, each behind its length."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def cut_apart(message: bytes) -> list[bytes]:
    """The parts that `joined` has put together.

    Raises:
        ValueError: the message ends within a part.
    """
    parts, end = [], 0
    while end < len(message):  # by position: cutting off the rest of the message would copy it for every part
        start = end + LENGTH
        end = start + int.from_bytes(message[end:start], "little")
        if max(start, end) > len(message):
            raise ValueError(f"these {len(message)} bytes end within a part: ask for them again.")
        parts.append(message[start:end])
    return parts
