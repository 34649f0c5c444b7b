"""A client's budget: how many packets it may publish, and how much they may weigh.

Bounds on one packet leave a client the choice to publish a thousand. The registry counts, because nobody else sees all
of a client's packets.
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

    def fault(self, db: sqlite3.Connection, packet: Packet) -> str:
        """Which part of its client's budget a stored packet has overdrawn, or an empty string."""
        where = {"in all": "client = ?", f"in slot {packet.slot}": "client = ? AND slot = ?"}
        bounds = ((self.packets_in_all, self.weight_in_all), (self.packets, self.weight))
        for (when, condition), (number, weight) in zip(where.items(), bounds, strict=True):
            values = (packet.client, packet.slot)[: condition.count("?")]
            (found,) = db.execute(f"SELECT count(*) FROM packets WHERE {condition}", values).fetchone()
            if found > number:
                return f"{found} packets {when}, and {number} are its budget"
            if weight < float("inf"):
                query = f"SELECT total(weight) FROM packets JOIN weights USING (number) WHERE {condition}"
                (spent,) = db.execute(query, values).fetchone()
                if spent > weight:
                    return f"packets of weight {spent:.4g} {when}, and {weight:.4g} is its budget"
        return ""


def charge(db: sqlite3.Connection, budget: Budget, leverage: Leverage | None, packet: Packet, number: int) -> str:
    """Charge a stored packet to its client's budget; which part it overdraws, or an empty string.

    The weight is kept under the packet's row number, and erased with the packet. Call it inside a transaction that is
    rolled back if something is overdrawn.
    """
    if leverage:
        db.execute(TABLE)
        db.execute("INSERT INTO weights VALUES (?, ?)", (number, leverage.weight(packet)))
    return budget.fault(db, packet)
