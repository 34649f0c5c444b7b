"""The desk: the server's side of the turns. It sends each member its turn, and hands the calls to the server.

`TurnDesk` does this for every kind of federation, and `Desk` plays the slots of one with sealed packets.

A slot is two turns: all members edit and publish, then all retrieve. The members of a turn work side by side, so two of
them that hold the same fact in the same slot both compute it. In later slots it is reused, as in one process.

The first turn waits for as many members as the desk is told. A member that has just been started again may be refused
while the transport still takes its last process for alive; so who could not be reached gets the first turn once more.

A member that has not replied when the patience is over is late. The slot goes on without it, and its reply is dropped
when it comes. The registry's file is all that the server needs to go on after a stop: it begins again with the last
slot that has a packet, in which members publish what is not there yet.

When somebody has withdrawn, all slots are played again. Members hear of it at the opening of their next turn, leave out
what was withdrawn, compute what they had reused, and choose again; nothing else is computed or published twice. The
request stays pending in the file until every member that stays has replied to all of these turns.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fleke_lib.federation.flower.turns import Answer, Call, Turn, TurnReply, asked_first
from fleke_lib.federation.packets.messages import Handler
from fleke_lib.federation.sealing.exchange import BlindServer

PAUSE = 0.2  # seconds between two looks for replies
AGAIN = 2.0  # seconds before a first turn is repeated
BATCH = 2**24  # bytes of turns after which they are sent


class Unreached(str):
    """Why a member could not be reached. It may be there again later."""


class Transport(Protocol):
    """Carries turns to members and replies back. It must authenticate who replies."""

    def alive(self) -> Collection[str]:
        """The pseudonyms of members that can be reached now."""
        ...

    def send(self, turns: Mapping[str, bytes]) -> None:
        """Send each member its turn."""
        ...

    def replies(self) -> Mapping[str, bytes | str]:
        """What has come since the last look, by member: a reply, or in words why there is none, see `Unreached`."""
        ...


@dataclass
class _Seat:
    """What the desk knows of one member: the last turn sent, the last reply handled, and answers not yet delivered."""

    sent: int = 0
    answered: int = 0
    answers: tuple[Answer, ...] = ()
    first: tuple[Call, ...] = ()


@dataclass
class TurnDesk:
    """Sends members their turns, and hands the calls of their replies to a server.

    server: the handlers. members: pseudonyms. number: how many to wait for in the first turn.
    patience: seconds to wait for replies to a turn.
    progress: is given a line after each turn, and when a reply is refused.
    status: is given a line when a reply has come, with the members that are alive.
    sent, received: bytes of all turns and replies so far.
    """

    server: Handler
    members: Sequence[str]
    transport: Transport
    number: int = 0
    patience: float = 600.0
    progress: Callable[[str], None] = lambda line: None
    status: Callable[[str], None] = lambda line: None
    session: str = field(default_factory=lambda: secrets.token_hex(8))
    sent: int = 0
    received: int = 0
    _seats: dict[str, _Seat] = field(default_factory=dict, repr=False)
    _said: set[tuple[str, str]] = field(default_factory=set, repr=False)
    _unreached: set[str] = field(default_factory=set, repr=False)  # in the present turn of `gather`

    def gather(self, what: str, slot: int) -> tuple[str, ...]:
        """The first turn, as soon as `number` members are alive or the patience is over.

        It is repeated for members that could not be reached, until `number` have replied or the patience is over.
        Returns who has replied.
        """
        done: tuple[str, ...] = ()
        end = time.monotonic() + self.patience
        while True:
            while len({*done}.union(self.transport.alive())) < self.number and time.monotonic() < end:
                time.sleep(PAUSE)
            self._unreached.clear()
            done = self.turn(what, slot, done)
            if len(done) >= self.number or not self._unreached or time.monotonic() > end:
                return done
            time.sleep(AGAIN)

    def turn(self, what: str, slot: int, replied: Collection[str] = ()) -> tuple[str, ...]:
        """One turn of all members that are alive; returns those that have replied in time.

        replied: members that have replied to it before, and do not get it again.
        """
        alive = [name for name in self.transport.alive() if name in self.called]
        asked = [name for name in alive if name not in replied]
        for batch in self._batches(asked, what, slot):
            self.transport.send(batch)
        waiting, done, end = set(asked), [*replied], time.monotonic() + self.patience
        while waiting:
            for name, reply in self.transport.replies().items():
                if name not in waiting:
                    continue
                try:
                    if self._handled(name, reply):
                        waiting.discard(name), done.append(name)
                        self.status(f"{self._about(what, slot, done)}, {len(alive)} alive")
                except ValueError as error:
                    waiting.discard(name), self._refuse(name, error)
                    if isinstance(reply, Unreached):
                        self._unreached.add(name)
            if time.monotonic() > end:
                break
            if waiting:
                time.sleep(PAUSE)
        self.progress(f"{self._about(what, slot, done)}, {len(alive)} alive")
        return tuple(sorted(done))

    def _batches(self, names: Sequence[str], what: str, slot: int) -> Iterator[dict[str, bytes]]:
        """The turns of these members, some at a time: each has all that others have published since its last one."""
        batch: dict[str, bytes] = {}
        for name in names:
            batch[name] = self._turn(name, what, slot).data
            self.sent += len(batch[name])
            if sum(map(len, batch.values())) > BATCH:
                yield batch
                batch = {}
        if batch:
            yield batch

    def _about(self, what: str, slot: int, done: Collection[str]) -> str:
        return (
            f"slot {slot}, {what}: {len(done)} of {len(self.members)} nodes, {self.state}, "
            f"{self.received} bytes from nodes, {self.sent} to nodes"
        )

    @property
    def called(self) -> Collection[str]:
        """The members that take part in the next turn."""
        return self.members

    @property
    def state(self) -> str:
        """What the server has, in a few words."""
        return ""

    def opening(self, name: str) -> tuple[Call, ...]:
        """What a member asks first in its first turn."""
        return ()

    def _turn(self, name: str, what: str, slot: int) -> Turn:
        seat = self._seats.setdefault(name, _Seat(first=self.opening(name)))
        seat.sent += 1
        first = tuple(self._answer(name, call) for call in seat.first)
        return Turn(self.session, seat.sent, what, slot, seat.answered, seat.answers, first)

    def _handled(self, name: str, data: bytes | str) -> bool:
        """Hand the calls of a reply to the server; False for the reply to an earlier turn, which is dropped.

        Raises:
            ValueError: the node has failed, or these bytes are no reply.
        """
        if isinstance(data, str):
            raise ValueError(data)
        self.received += len(data)
        reply, seat = TurnReply.read(data), self._seats[name]
        if (reply.session, reply.number) != (self.session, seat.sent):
            return False
        seat.answers = tuple(self._answer(name, call) for call in reply.calls)
        seat.answered, seat.first = reply.number, reply.first
        return True

    def _answer(self, name: str, call: Call) -> Answer:
        try:
            return Answer(self.server.handle(*call, name))
        except ValueError as error:
            self._refuse(name, error)
            return Answer(refused=str(error))

    def _refuse(self, name: str, error: ValueError) -> None:
        """Report why something of a member was refused, each reason once."""
        if (said := (name, str(error))) not in self._said:
            self._said.add(said)
            self.progress(f"refused from {name}: {error}")


@dataclass
class Desk(TurnDesk):
    """The turns of one federation with sealed packets."""

    server: BlindServer

    def run(self, slots: int) -> tuple[str, ...]:
        """All slots from the one that the registry's file is at, and the members' edits at the end.

        Returns the members that have replied to all turns, the last of which makes their edits.
        """
        self.gather("join", self.present)
        store, first = self.server.store, self.present
        while True:
            if pending := store.pending():
                first = 0
                self.progress(f"{', '.join(one.client or 'a packet' for one in pending)} withdrawn: all slots again")
            here = self._slots(first, slots)
            if store.pending() == pending:
                here &= set(self.turn("solve", slots - 1))
            if store.pending() == pending:
                break
        if here >= set(self.members) - {one.client for one in pending}:
            for one in pending:
                store.complete(one)
        return tuple(sorted(here))

    def _slots(self, first: int, slots: int) -> set[str]:
        """The turns of these slots; returns the members that have replied to all of them."""
        here = set(self.members)
        for slot in range(first, slots):
            self.server.begin(slot)
            here &= set(self.turn("edit", slot))
            here &= set(self.turn("retrieve", slot))
        return here

    @property
    def present(self) -> int:
        """The slot in which the federation is: the last one with a packet."""
        return max((slot for _, slot, _ in self.server.store.counts()), default=0)

    @property
    def state(self) -> str:
        return f"{len(self.server.store)} packets"

    def opening(self, name: str) -> tuple[Call, ...]:
        return asked_first(name)
