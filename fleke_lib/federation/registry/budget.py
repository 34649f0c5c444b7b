"""A client's budget: how many packets it may publish, and how much they may weigh.

Bounds on one packet leave a client the choice to publish a thousand. A registry that reads packets counts and weighs
them. Where packets are sealed each receiver does so for itself (`federation.sealing.spending`).
"""

import sqlite3
from dataclasses import dataclass

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.leverage import Leverage

TABLE = """
    CREATE TABLE IF NOT EXISTS weights (
        number INTEGER PRIMARY KEY REFERENCES packets ON DELETE CASCADE, weight REAL NOT NULL)
"""


@dataclass(frozen=True)
class Budget:
    """What one client may publish.

    packets, packets_in_all: number of its packets in one slot, and in all slots.
    weight, weight_in_all: the sum of its packets' weights (`Leverage.weight`), in the unit of lambda. Rules without
        moments do not weigh packets. A usual packet of the default model weighs 3 to 5; a good bound is twice the
        number of facts that a client has, times that.

    Erased packets do not count. A client that can open accounts as it likes has no budget: the transport must know who
    is one client.
    """

    packets: int = 4096
    packets_in_all: int = 65536
    weight: float = float("inf")
    weight_in_all: float = float("inf")

    def overdrawn(self, slot: int, in_slot: tuple[int, float], in_all: tuple[int, float]) -> str:
        """Which part a client has overdrawn with these numbers of packets and their weights, or an empty string."""
        for when, (number, weight), (most, heaviest) in (
            ("in all", in_all, (self.packets_in_all, self.weight_in_all)),
            (f"in slot {slot}", in_slot, (self.packets, self.weight)),
        ):
            if number > most:
                return f"{number} packets {when}, and {most} are its budget"
            if weight > heaviest:
                return f"packets of weight {weight:.4g} {when}, and {heaviest:.4g} is its budget"
        return ""

    @property
    def weighs(self) -> bool:
        """Whether packets need to be weighed."""
        return min(self.weight, self.weight_in_all) < float("inf")


def overdraft(id: str, client: str, found: str) -> str:
    """The sentence that refuses a packet which overdraws its client's budget."""
    return f"with packet {id[:12]} {client!r} has {found}: withdraw others."


def charge(db: sqlite3.Connection, budget: Budget, leverage: Leverage | None, packet: Packet, number: int) -> str:
    """Charge a stored packet to its client's budget; which part it overdraws, or an empty string.

    The weight is kept under the packet's row number, and erased with the packet. Call it inside a transaction that is
    rolled back if something is overdrawn.
    """
    if leverage:
        db.execute(TABLE)
        db.execute("INSERT INTO weights VALUES (?, ?)", (number, leverage.weight(packet)))

    def spent(condition: str, *values: str | int) -> tuple[int, float]:
        (found,) = db.execute(f"SELECT count(*) FROM packets WHERE {condition}", values).fetchone()
        if not (leverage and budget.weighs):
            return found, 0.0
        query = f"SELECT total(weight) FROM packets JOIN weights USING (number) WHERE {condition}"
        return found, db.execute(query, values).fetchone()[0]

    in_slot = spent("client = ? AND slot = ?", packet.client, packet.slot)
    return budget.overdrawn(packet.slot, in_slot, spent("client = ?", packet.client))
