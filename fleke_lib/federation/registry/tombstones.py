"""Tombstones and requests: the records that a withdrawal leaves in the registry.

A tombstone blocks a withdrawn packet. It holds three keyed hashes ("marks") and nothing else: HMAC-SHA256(key, ...) of
the packet's id, of its z in 16 bits, and of its owner's pseudonym. The hash of z recognises the same vectors under
another pseudonym, slot or compression. The key is drawn at random when the file is created, and stays in it.

What this protects: a mark outside the registry, for example in a certificate, does not reveal its packet, not even to a
reader who has the packet; and the marks of two registries cannot be compared. What it does not protect: a reader with
both this file and a packet can see that the packet was withdrawn here, which is unavoidable for a record that refuses
it. A hash also recognises only equal vectors: slightly changed ones pass.

A request records that the packets are erased here, and that state derived from them elsewhere (edits, adoptions, warm
starts, clusters) is still to be recomputed. It survives a crash, and stays pending until `complete` is called.
"""

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.admission import Refused

TABLES = """
    CREATE TABLE IF NOT EXISTS secrets (number INTEGER PRIMARY KEY CHECK (number = 1), key BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS requests (
        number INTEGER PRIMARY KEY, client TEXT NOT NULL, packets INTEGER NOT NULL, settled INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS tombstones (
        id BLOB NOT NULL, z BLOB NOT NULL, owner BLOB NOT NULL, request INTEGER NOT NULL REFERENCES requests);
    CREATE INDEX IF NOT EXISTS tombstone_by_id ON tombstones (id);
    CREATE INDEX IF NOT EXISTS tombstone_by_z ON tombstones (z);
    CREATE INDEX IF NOT EXISTS tombstone_by_owner ON tombstones (owner);
    CREATE INDEX IF NOT EXISTS tombstone_by_request ON tombstones (request);
"""
KEY_BYTES = 32


@dataclass(frozen=True)
class WithdrawalRequest:
    """A withdrawal: its packets are erased, and until it is completed state derived from them may still exist.

    client: the withdrawn client; "" for single packets, and after completion, when the name is no longer needed.
    packets: number of erased packets.
    marks: the keyed hashes of their ids, in hexadecimal; fewer than `packets` if an owner has sent some again.
    completed: whether all derived state has been recomputed.
    """

    number: int
    client: str
    packets: int
    marks: tuple[str, ...] = field(repr=False)
    completed: bool


class Tombstones:
    """The records in one registry's file. `admit` and `bury` must be called inside a transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(TABLES)
        if not db.execute("SELECT 1 FROM secrets").fetchone():  # another process may be here, too: hence OR IGNORE
            db.execute("INSERT OR IGNORE INTO secrets VALUES (1, ?)", (secrets.token_bytes(KEY_BYTES),))
        (self._key,) = db.execute("SELECT key FROM secrets").fetchone()

    def admit(self, packet: Packet, sender: str | None, anew: bool = False) -> None:
        """Check a packet against the tombstones; remove its tombstones if the sender owned the withdrawn packet.

        Args:
            anew: accept vectors equal to those of another owner's withdrawn packet, as computed independently.

        Raises:
            Refused: the packet was withdrawn, and the sender is not its owner.
        """
        id, z = self._mark("id", packet.id.encode()), self._vectors(packet.z.numpy())
        found = self._db.execute("SELECT owner, id = ? FROM tombstones WHERE id = ? OR z = ?", (id, id, z)).fetchall()
        if not found:
            return
        if sender is not None and self._owner(sender) in [owner for owner, _ in found]:
            which = (self._owner(sender), id, z)
            self._db.execute("DELETE FROM tombstones WHERE owner = ? AND (id = ? OR z = ?)", which)
        elif any(same for _, same in found):
            raise Refused(f"packet {packet.id[:12]} was withdrawn: only its owner can send it again.")
        elif not anew:
            raise Refused(
                f"the vectors of packet {packet.id[:12]} were withdrawn by another client: if they were made anew from "
                "one's own text, ask who keeps the registry to put them there with `put_anew`."
            )

    def bury(self, client: str | None, ids: Sequence[str] | None) -> WithdrawalRequest:
        """Erase a client's packets, or those with these ids, and add tombstones.

        If all of them were erased before, the earlier request is returned.

        Raises:
            ValueError: the client or a packet was never stored; nothing has changed.
        """
        rows = self._rows_of(ids) if client is None else self._rows(("client", client))
        if not rows:
            return self._earlier(client, ids)
        record = (client or "", len(rows))
        request = self._db.execute("INSERT INTO requests VALUES (NULL, ?, ?, 0)", record).lastrowid
        marked = sorted(  # by mark, which hides the order of the packets
            (self._mark("id", id.encode()), self._vectors_mark(z), self._owner(owner), request)
            for _, id, owner, z in rows
        )
        self._db.executemany("INSERT INTO tombstones VALUES (?, ?, ?, ?)", marked)
        self._erase([number for number, *_ in rows])
        return self.request(request)

    def request(self, number: int) -> WithdrawalRequest:
        row = self._db.execute("SELECT client, packets, settled FROM requests WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise ValueError(f"there is no request {number} in this registry: ask `pending` for those that are open.")
        marks = self._db.execute("SELECT id FROM tombstones WHERE request = ? ORDER BY id", (number,))
        return WithdrawalRequest(number, *row[:2], tuple(mark.hex() for (mark,) in marks), bool(row[2]))

    def pending(self) -> list[WithdrawalRequest]:
        open_ = self._db.execute("SELECT number FROM requests WHERE NOT settled ORDER BY number").fetchall()
        return [self.request(number) for (number,) in open_]

    def complete(self, number: int) -> WithdrawalRequest:
        self._db.execute("UPDATE requests SET settled = 1, client = '' WHERE number = ?", (number,))
        return self.request(number)

    def withdrawn(self, ids: Sequence[str], number: int | None = None) -> list[str]:
        """Those of these ids that have a tombstone; with a number, a tombstone of that request."""
        where = "WHERE id = ?" if number is None else "WHERE id = ? AND request = ?"
        which = () if number is None else (number,)
        query = f"SELECT 1 FROM tombstones {where}"
        return [id for id in ids if self._db.execute(query, (self._mark("id", id.encode()), *which)).fetchone()]

    def _rows_of(self, ids: Sequence[str]) -> list[tuple]:
        """The rows of these packets except those that were withdrawn before."""
        if isinstance(ids, str) or not ids:
            raise ValueError(f"the packets to withdraw are {ids!r}: give a list of one id or more.")
        rows = {id: self._rows(("id", id)) for id in dict.fromkeys(ids)}
        gone = {*self.withdrawn([id for id, found in rows.items() if not found])}
        if never := [id for id, found in rows.items() if not found and id not in gone]:
            raise ValueError(f"packet {never[0]!r} was never here: give ids that `find` or `vectors` name.")
        return [row for found in rows.values() for row in found]

    def _rows(self, where: tuple[str, str]) -> list[tuple]:
        column, value = where
        return self._db.execute(f"SELECT number, id, client, z FROM packets WHERE {column} = ?", (value,)).fetchall()

    def _erase(self, numbers: Sequence[int]) -> None:
        self._db.executemany("DELETE FROM packets WHERE number = ?", [(number,) for number in numbers])
        self._db.execute("DELETE FROM clusters")  # each cluster was derived from all packets

    def _vectors_mark(self, z: bytes) -> bytes:
        return self._vectors(np.frombuffer(z, np.float32))

    def _earlier(self, client: str | None, ids: Sequence[str] | None) -> WithdrawalRequest:
        """The latest request that erased any of these packets."""
        column = "owner" if client is not None else "id"
        marks = [self._owner(client)] if client is not None else [self._mark("id", id.encode()) for id in ids or ()]
        query = f"SELECT max(request) FROM tombstones WHERE {column} = ?"
        found = [number for mark in marks for (number,) in self._db.execute(query, (mark,)) if number is not None]
        if not found:
            raise ValueError(f"client {client!r} never had a packet here: give the pseudonym that its packets carry.")
        return self.request(max(found))

    def _owner(self, client: str) -> bytes:
        return self._mark("client", client.encode())

    def _vectors(self, z: np.ndarray) -> bytes:
        with np.errstate(over="ignore"):  # a number overflows 16 bits only if the file was tampered with
            return self._mark("z", z.astype(np.float16).tobytes())

    def _mark(self, kind: str, what: bytes) -> bytes:
        return hmac.digest(self._key, kind.encode() + b"\0" + what, hashlib.sha256)
