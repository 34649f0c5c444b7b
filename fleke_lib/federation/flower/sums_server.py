"""The server's side of a summed edit: it relays keys and sealed shares, and adds up masked numbers.

Handlers for six kinds of message, bytes in and bytes out. `flower.sums` is the other side. Nothing is kept after the
session, and no file is written.

    advertise, share, masked, reveal   what `SummingMember` sends in the turn of this name   -> nothing
    told                               nothing   -> what the present turn tells the sender
    withdraw                           nothing   -> nothing; the sender takes no part in later sessions
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fleke_lib.federation.flower.sums import adverts_of, numbers_as_bytes, numbers_of, paired, pairs, revealed_of
from fleke_lib.federation.masks import NONCE, Advert, Masked, Revealed, least, unmask
from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.sealing.keys import Group
from fleke_lib.federation.sealing.sealed import TAG
from fleke_lib.federation.shamir import BYTES
from fleke_lib.federation.summed import Step, steps_of

SEALED = NONCE + 2 * BYTES + TAG  # bytes of a sealed share of a key and of a seed


@dataclass
class SummingServer:
    """The message handlers of one federation.

    agreed: a hash of rules and members, see `flower.bounds.agreement`.
    session, phase, here: the present session's name, the turn that it is in, and who takes part in this turn.
    left: who has withdrawn.
    """

    rules: Rules
    group: Group
    agreed: str
    session: str = ""
    phase: str = ""
    here: frozenset[str] = frozenset()
    left: set[str] = field(default_factory=set)
    at: int = 0  # the number of the present step
    _came: dict[str, bytes] = field(default_factory=dict, repr=False)  # the messages of the present turn
    _told: dict[str, bytes] = field(default_factory=dict, repr=False)
    _adverts: dict[str, tuple[Advert, ...]] = field(default_factory=dict, repr=False)
    _masked: list[Masked] = field(default_factory=list, repr=False)

    @property
    def steps(self) -> tuple[Step, ...]:
        return steps_of(self.rules.layers)

    @property
    def step(self) -> Step:
        return self.steps[self.at]

    @property
    def needed(self) -> int:
        """How many members must be there at every turn."""
        return least(len(self.group.members))

    def begin(self, name: str) -> None:
        """Begin a session, with the turn `advertise`."""
        self.session, self.phase, self.at = f"{self.agreed}-{name}", "advertise", 0
        self.here = frozenset(self.group.members) - self.left
        self._came, self._adverts, self._masked = {}, {}, []
        self._told = dict.fromkeys(self.here, self.session.encode())

    def handle(self, kind: str, body: bytes, sender: str = "") -> bytes:
        """The answer to one message.

        Raises:
            ValueError: there is no such kind, or it does not fit to the present turn; nothing has changed.
        """
        if kind == "told":
            return self._told.get(sender, b"")
        if kind == "withdraw" and sender in self.group.members:
            self.left.add(sender)
            return b""
        checks: dict[str, Callable[[bytes, str], object]] = {
            "advertise": self._advertised, "share": self._shared, "masked": self._numbers, "reveal": self._revealed
        }  # fmt: skip
        if kind not in checks:
            raise ValueError(f"there is no message {kind!r}: send one of told, withdraw, {', '.join(checks)}.")
        if kind != self.phase or sender not in self.here or sender in self._came:
            raise Refused(f"{kind!r} came from {sender!r} in the turn {self.phase!r}: it is not expected of it now.")
        checks[kind](body, sender)
        self._came[sender] = body
        return b""

    def go_on(self) -> None:
        """End the present turn: the members whose messages came take part in the next one.

        Raises:
            ValueError: too few members are left, or a total cannot be unmasked.
        """
        came, self._came = self._came, {}
        self.here = frozenset(came)
        if len(self.here) < self.needed:
            raise ValueError(
                f"{len(self.here)} of {len(self.group.members)} members are left at the turn {self.phase!r}, and "
                f"{self.needed} are needed: start the server again when they are there."
            )
        then = {"advertise": self._relay, "share": self._deliver, "masked": self._name, "reveal": self._add_up}
        then[self.phase](came)

    def _relay(self, came: dict[str, bytes]) -> None:
        self.phase = "share"
        self._adverts = {name: self._advertised(came[name], name) for name in sorted(self.here)}
        self._told = dict.fromkeys(self.here, paired((name, came[name]) for name in sorted(self.here)))

    def _deliver(self, came: dict[str, bytes]) -> None:
        self.phase = "masked"
        self._adverts = {name: self._adverts[name] for name in sorted(self.here)}
        sealed = {name: dict(pairs(came[name])) for name in sorted(self.here)}
        self._told = {to: paired((name, each[to]) for name, each in sealed.items() if name != to) for to in self.here}

    def _name(self, came: dict[str, bytes]) -> None:
        self.phase = "reveal"
        self._masked = [Masked(self.step.round(self.session), name, self._numbers(came[name], name)) for name in came]
        self._told = dict.fromkeys(self.here, joined(name.encode() for name in sorted(came)))

    def _add_up(self, came: dict[str, bytes]) -> None:
        adverts = [each[self.at] for each in self._adverts.values()]
        revealed = [self._revealed(body, name) for name, body in came.items()]
        total = unmask(self.step.round(self.session), adverts, self._masked, revealed, self.needed)
        self._masked, self.at = [], self.at + 1
        self.phase = "masked" if self.at < len(self.steps) else "learn"
        self._told = dict.fromkeys(self.here, numbers_as_bytes(total))

    def _advertised(self, body: bytes, sender: str) -> tuple[Advert, ...]:
        return adverts_of(body, sender, self.session, self.steps, self.group)

    def _shared(self, body: bytes, sender: str) -> None:
        found = dict(pairs(body))
        sizes = {len(share) for shares in found.values() for share in cut_apart(shares)}
        numbers = {len(cut_apart(shares)) for shares in found.values()}
        if set(found) != set(self._adverts) - {sender} or sizes != {SEALED} or numbers != {len(self.steps)}:
            raise Refused(f"{sender!r} has not sent {len(self.steps)} sealed shares to each other member: refused.")

    def _numbers(self, body: bytes, _: str) -> NDArray[np.uint64]:
        return numbers_of(body, self.step.size(self.rules.d_mlp, self.rules.d_model) + 1)  # and the checksum

    def _revealed(self, body: bytes, sender: str) -> Revealed:
        return revealed_of(body, sender, self.step.round(self.session))
