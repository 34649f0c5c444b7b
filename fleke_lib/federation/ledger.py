"""The ledger: what was optimised, published, reused and adopted, by whom, when, from what, and at how many bytes.

The result of a federation is this list and the packets that it names. `federation.weights` computes weights from them,
so one run serves every form of re-editing.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fleke_lib.storage.files import half_made, user_path

KINDS = ("joined", "optimised", "published", "reused", "asked", "adopted", "refused", "summed", "withdrawn")


@dataclass(frozen=True)
class Event:
    """One event of a federation.

    kind: "joined" a group whose packets are sealed; "optimised" an MKV (steps, seconds); "published" a packet; "reused"
        another client's packet instead of optimising; "asked" the server; "adopted" a packet; "refused" a packet after
        opening it; "summed" its sums under masks; "withdrawn" a packet.
    of: ids of the packets that this one was derived from, such as a warm start's source.
    sent, received: bytes that crossed the channel.
    seconds: wall time; not compared when two ledgers are compared.
    """

    kind: str
    slot: int
    client: str
    packet: str = ""
    of: tuple[str, ...] = ()
    sent: int = 0
    received: int = 0
    steps: int = 0
    seconds: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}: give one of {', '.join(KINDS)}.")


@dataclass(frozen=True)
class Ledger:
    """A sequence of events in the order in which they happened."""

    events: tuple[Event, ...] = ()

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def plus(self, events: Sequence[Event]) -> "Ledger":
        """A ledger with these events appended."""
        return Ledger((*self.events, *events))

    def select(self, *kinds: str, client: str | None = None, until: int | None = None) -> tuple[Event, ...]:
        """The events of these kinds (default: all), of one client, up to and including slot `until`."""
        return tuple(
            event
            for event in self.events
            if (not kinds or event.kind in kinds)
            and (client is None or event.client == client)
            and (until is None or event.slot <= until)
        )

    def total(self, what: str, *kinds: str) -> float:
        """The sum of "sent", "received", "steps" or "seconds" over events of these kinds (default: all)."""
        return sum(getattr(event, what) for event in self.select(*kinds))

    def save(self, path: str | Path) -> Path:
        """Write one JSON object per line, atomically."""
        path = user_path(path)
        with half_made(path) as half:
            half.write_text("".join(json.dumps(asdict(event)) + "\n" for event in self.events), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Ledger":
        """Read what `save` wrote.

        Raises:
            ValueError: a line is not an event.
        """
        events = []
        for number, line in enumerate(user_path(path).read_text(encoding="utf-8").splitlines(), 1):
            try:
                fields = json.loads(line)
                events.append(Event(**{**fields, "of": tuple(fields["of"])}))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"line {number} of {path} is not an event ({error}): give a saved ledger.") from None
        return cls(tuple(events))

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(found)} {kind}" for kind in KINDS if (found := self.select(kind)))
        return (
            f"Ledger({counts}; {self.total('sent') / 1e6:.2f} MB sent, {self.total('received') / 1e6:.2f} MB received)"
        )
