"""A member's channel whose calls wait for the reply of a turn, and whose answers come with the next one.

To the client it is `sealing.channel.WholeSlots`: what others have published is fetched once a turn, and what the client
publishes is sealed at once. A packet is settled when the server has answered; until then it waits in `sent_off`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fleke_lib.federation.flower.turns import Answer, Call, asked_first
from fleke_lib.federation.packets.messages import cut_apart
from fleke_lib.federation.sealing.channel import WholeSlots, check_named
from fleke_lib.federation.sealing.sealed import Sealed


@dataclass(frozen=True)
class Waiting:
    """A call whose answer has not come: of a sealed packet, its id and that of the packet inside; else empty ids."""

    call: Call = field(repr=False)
    sealed: str = ""
    packet: str = ""


@dataclass(kw_only=True)
class TurnChannel(WholeSlots):
    """`WholeSlots` over turns.

    sent_off: the calls that were not answered yet, in their order.
    """

    sent_off: list[Waiting] = field(default_factory=list)
    _arrived: dict[str, bytes] = field(default_factory=dict, repr=False)

    def arrive(self, answers: Mapping[str, bytes], repeated: bool = False) -> None:
        """The answers with which a turn opens, by kind; each is used once.

        repeated: the server may repeat packets that came in an earlier turn.
        """
        self._arrived, self._last = dict(answers), 0 if repeated else self._last

    @property
    def first(self) -> tuple[Call, ...]:
        """What this member asks at the opening of each turn."""
        return asked_first(self.client, self._last)

    def call(self, kind: str, body: bytes) -> bytes:
        """The answer that has arrived for this kind of call; else nothing, and the call waits for the reply."""
        answer = self._arrived.pop(kind, None)
        if answer is None:
            self.sent_off.append(Waiting((kind, body)))
        self._count(kind, body, answer or b"")
        return answer or b""

    def settle(self, answers: Sequence[Answer]) -> list[str]:
        """Take the answers to all calls that wait; returns the ids of the packets that the server has refused.

        Raises:
            ValueError: there are more or fewer answers than calls, or a packet was named by another id.
        """
        waiting, lost = self.sent_off, []
        if len(answers) != len(waiting):
            raise ValueError(f"{len(answers)} answers came to {len(waiting)} calls: adopt nothing from this server.")
        for one, answer in zip(waiting, answers, strict=True):
            self.received += len(answer.data)
            if answer.refused:
                self.refuse(one.packet or one.call[0], ValueError(answer.refused))
                lost += [one.packet] if one.packet else []
            elif one.sealed:
                check_named(one.sealed, answer.data)
        self.sent_off = []
        return lost

    def fetch_again(self) -> None:
        """Drop what others have published, and ask for all of it with the next turn."""
        self.forget(clients={one.card.head.client for claims in self._held.values() for one in claims} - {self.client})
        self._arrived.pop("since", None)
        self._last = 0

    def pass_over(self) -> None:
        """Leave unread what has arrived of others, and do not ask for it again."""
        number, *_ = cut_apart(self._arrived.pop("since", b"")) or [b"0"]
        self._last = max(self._last, int(number) if number.isdigit() else 0)

    def abandon(self) -> list[str]:
        """Drop all calls that wait, since they will never be answered; returns the ids of their packets."""
        lost, self.sent_off = [one.packet for one in self.sent_off if one.packet], []
        return lost

    def _publish(self, sealed: Sealed, message: bytes, id: str) -> None:
        self.sent_off.append(Waiting(("put", message), sealed.id, id))
        self._count("put", message, b"")

    def _update(self) -> None:
        if "since" in self._arrived:
            super()._update()

    def _count(self, kind: str, body: bytes, answer: bytes) -> None:
        self.sent, self.received = self.sent + len(body), self.received + len(answer)
        self.tap(kind, body, answer)
