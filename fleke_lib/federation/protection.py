"""Protection: who can read a federation's packets. A run is given one such object, and connects its clients through it.

Plain()     the server reads all packets
Sealing()   members of the group read packets, and the server reads none (`federation.sealing`)
Summing(s)  packets stay at home, and everybody learns totals (`federation.summing`)
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from fleke_lib.federation.packets.messages import Connected, Offers, Tap
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.server import Channel, Server


class Connection(Protocol):
    """A client's connection as the client sees it: packets in and packets out, whatever crosses."""

    client: str
    sent: int
    received: int

    def put(self, data: bytes) -> str: ...
    def find(self, tag: str) -> bytes | None: ...
    def offers(self, slot: int) -> Offers: ...
    def get(self, ids: Sequence[str]) -> list[bytes]: ...
    def bytes_of(self, id: str, data: bytes) -> dict[str, int]: ...
    def refuse(self, id: str, error: ValueError) -> str: ...


class Protection(Protocol):
    """How a federation's clients are connected.

    connect: a context with the connections; `path` is a new file for the server.
    without: the same protection for a federation that a client or some packets have left: what is recorded of them is
        forgotten.
    """

    def connect(
        self, path: Path, rules: Rules, clients: Sequence[str], tap: Tap | None = None
    ) -> AbstractContextManager[Connected]: ...

    def without(self, packets: Collection[str], client: str | None = None) -> Self: ...


@dataclass(frozen=True)
class Plain:
    """No protection: packets cross as they are, and the server checks and reads them."""

    @contextmanager
    def connect(self, path: Path, rules: Rules, clients: Sequence[str], tap: Tap | None = None) -> Iterator[Connected]:
        with Registry(path, rules) as registry:
            if len(registry):
                raise ValueError(f"{path} holds {len(registry)} packets already: give a run a new file.")
            server = Server(registry)
            yield Connected(server.begin, {name: Channel(server, name, *([tap] if tap else [])) for name in clients})

    def without(self, packets: Collection[str], client: str | None = None) -> Self:
        return self
