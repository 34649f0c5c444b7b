"""Turns: what the server tells a node, and what the node replies. Calls travel in replies, answers in the next turn.

A call is a message of `federation.sealing.exchange`: a kind and its bytes. A reply carries two lists of them:

    calls   handled when the reply arrives, such as packets to store
    first   handled when the next turn is sent, such as what others have published by then

The next turn carries the answers to both. A turn is known by its session, which names one start of the server, and by
its number. It says which reply its answers are for. The calls of any later reply of the session were not handled and
never will be, because the reply came too late or not at all. What became of the last reply of an earlier session is
unknown: its calls are made again, and a packet that is stored already is not stored twice.

A node that gets a turn again gives the same reply again and does nothing else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.registry.admission import LAST_SLOT, Refused

SEALED = ("join", "edit", "retrieve", "solve")  # turns of a federation with sealed packets
SUMMED = ("advertise", "share", "masked", "reveal", "learn")  # and of one that adds up sums, see `flower.sums`
WHAT = (*SEALED, *SUMMED)
MOST_CALLS = 100_000  # that are handled when the reply arrives
MOST_FIRST = 8  # that are handled when the next turn is sent
MOST_BYTES = 2**30  # of a turn or a reply
LONGEST_KIND = 16

Call = tuple[str, bytes]  # the kind of a message, and its bytes


TOLD: tuple[Call, ...] = (("told", b""),)  # what a member asks first in a federation that adds up sums


def asked_first(member: str, last: int = 0) -> tuple[Call, ...]:
    """What a member asks first: keys dealt to it, who has withdrawn, and packets after the number `last`."""
    return ("dealt", b""), ("withdrawn", b""), ("since", json.dumps([last, member]).encode())


@dataclass(frozen=True)
class Answer:
    """The server's answer to a call; `refused` is its reason if it refused the call."""

    data: bytes = field(default=b"", repr=False)
    refused: str = ""


@dataclass(frozen=True)
class Turn:
    """What the server tells a node.

    session: of the server's present start. number: of the node's turn in it, from 1.
    what: one of `WHAT`. slot: the present one.
    answered: the number of the reply to whose `calls` these are the answers; 0 before the first.
    first: answers to what the node asks first, see `asked_first`.
    """

    session: str
    number: int
    what: str
    slot: int
    answered: int = 0
    answers: tuple[Answer, ...] = ()
    first: tuple[Answer, ...] = ()

    @property
    def data(self) -> bytes:
        both = (*self.answers, *self.first)
        refused = [i for i, answer in enumerate(both) if answer.refused]
        head = [self.session, self.number, self.what, self.slot, self.answered, len(self.answers), refused]
        return _data(head, [answer.refused.encode() if answer.refused else answer.data for answer in both])

    @classmethod
    def read(cls, data: bytes) -> "Turn":
        """Read a turn from its bytes. Raises Refused if they are none."""
        try:
            (session, number, what, slot, answered, first, refused), parts = _read(data)
            marked = set(refused)
            both = [Answer(refused=p.decode()) if i in marked else Answer(p) for i, p in enumerate(parts)]
            turn = cls(session, number, what, slot, answered, tuple(both[:first]), tuple(both[first:]))
            right = turn.data == data and _named(session, number) and what in WHAT
            right = right and type(slot) is int and 0 <= slot <= LAST_SLOT
            right = right and type(answered) is int and 0 <= answered < number
        except (AttributeError, RecursionError, TypeError, ValueError):
            right = False
        if not right:
            raise Refused(f"these {len(data)} bytes are not a turn: send what the desk made.")
        return turn


@dataclass(frozen=True)
class TurnReply:
    """What a node replies to the turn with this session and number."""

    session: str
    number: int
    calls: tuple[Call, ...] = ()
    first: tuple[Call, ...] = ()

    @property
    def data(self) -> bytes:
        head = [self.session, self.number, [kind for kind, _ in self.calls], [kind for kind, _ in self.first]]
        return _data(head, [body for _, body in (*self.calls, *self.first)])

    @classmethod
    def read(cls, data: bytes) -> "TurnReply":
        """Read a reply from its bytes. Raises Refused if they are none, or have more calls than a node may make."""
        try:
            (session, number, kinds, first), parts = _read(data)
            calls = list(zip([*kinds, *first], parts, strict=True))
            reply = cls(session, number, tuple(calls[: len(kinds)]), tuple(calls[len(kinds) :]))
            right = (
                reply.data == data and _named(session, number) and len(kinds) <= MOST_CALLS and len(first) <= MOST_FIRST
            )
            right = right and all(type(kind) is str and len(kind) <= LONGEST_KIND for kind, _ in calls)
        except (RecursionError, TypeError, ValueError):
            right = False
        if not right:
            raise Refused(f"these {len(data)} bytes are not the reply to a turn: send what the node made.")
        return reply


def _data(head: Sequence, parts: Sequence[bytes]) -> bytes:
    return joined([json.dumps(head, separators=(",", ":")).encode("ascii"), *parts])


def _read(data: bytes) -> tuple[list, list[bytes]]:
    if not isinstance(data, bytes) or len(data) > MOST_BYTES:
        raise ValueError("too long")
    head, *parts = cut_apart(data)
    return json.loads(head), parts


def _named(session: object, number: object) -> bool:
    return type(session) is str and 0 < len(session) <= 64 and type(number) is int and 0 < number <= LAST_SLOT
