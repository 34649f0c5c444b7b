"""The registry: all packets of a federation, in one SQLite file whose deletions leave no bytes behind.

Writes are atomic and durable. `federation.registry.erasure` explains how deletion erases the bytes.

`withdraw` deletes and keeps a record: tombstones, and a request that is pending until derived state is recomputed.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.federation.registry.access import connect, explained, is_frozen
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.registry.budget import charge, overdraft
from fleke_lib.federation.registry.file import WithdrawableFile
from fleke_lib.federation.registry.index import Index, Nearest
from fleke_lib.federation.registry.integrity import Fault, faults
from fleke_lib.federation.registry.rows import TABLES, matrix, row_of, where_clause
from fleke_lib.federation.registry.tombstones import Tombstones, WithdrawalRequest
from fleke_lib.storage.files import user_path

REPRESENTATIONS = {"raw": "z", "residual": "z, h"}  # the columns to read: one, or two to subtract
BLOCK = 1 << 12  # rows that are read at once


@dataclass(frozen=True, eq=False)
class StoredVectors:
    """The vectors of some packets, sorted by slot and id, which hides the order of arrival."""

    ids: tuple[str, ...] = field(repr=False)
    clients: tuple[str, ...] = field(repr=False)
    slots: tuple[int, ...] = field(repr=False)
    z: Float[Tensor, "packets d_model"] = field(repr=False)
    h: Float[Tensor, "packets d_model"] = field(repr=False)


class Registry(WithdrawableFile):
    """The packets of a federation. One object belongs to one thread; several processes may open the same file.

    Args:
        path: the file; created if it does not exist.
        rules: what is admitted. Without rules packets can be read, searched and deleted, but not added; a file that
            cannot be written is opened for reading alone.

    Raises:
        ValueError: the file cannot be opened, is locked, or is not a registry, or it cannot be written and there are
            rules.
    """

    def __init__(self, path: str | Path, rules: Rules | None = None) -> None:
        self.path, self.rules = user_path(path), rules
        self._index: tuple[tuple, Index, Tensor] | None = None  # the version that it was read from, it, row numbers
        self._frozen = is_frozen(self.path)
        if self._frozen and rules is not None:
            raise ValueError(f"{path} cannot be written: open it without rules to read it, or give a copy elsewhere.")
        try:
            self._db = connect(self.path, TABLES, self._frozen)
            self._tombstones = Tombstones(self._db)
        except sqlite3.Error as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise ValueError(explained(self.path, error)) from None

    def put(self, data: bytes, sender: str | None = None) -> str:
        """Store a packet and return its id once it is safe on the disk. Storing it again changes nothing.

        A withdrawn packet is accepted again only from its owner, which removes the tombstone.

        Args:
            sender: the pseudonym that the transport has authenticated; only the sender's own packets are accepted.
                Without a sender the packet's owner is not verified, and no tombstone is removed.

        Raises:
            Refused: the rules do not admit the packet, it is not the sender's own, its client's budget is spent, or the
                file is damaged; nothing has changed.
        """
        return self._put(data, sender, anew=False)

    def put_anew(self, data: bytes, sender: str | None = None) -> str:
        """`put` for a packet that a client computed from its own text after another client's equal one was withdrawn.

        Two clients with the same fact get the same vectors, bit for bit. A registry cannot distinguish such a packet
        from a copy of the withdrawn one; the caller asserts that it is not a copy.
        """
        return self._put(data, sender, anew=True)

    def get(self, ids: Sequence[str]) -> list[bytes]:
        """The bytes of packets, in the order of `ids`. Raises ValueError for an id that is not stored."""
        with self._reading():
            return [self._one("SELECT data FROM packets WHERE id = ?", id) for id in ids]

    def find(self, tag: str, kind: Literal["answer", "question", "target"] = "answer") -> list[str]:
        """Ids of the packets with this tag, those of earlier slots first."""
        if kind not in ("answer", "question", "target"):
            raise ValueError(f"there is no tag {kind!r}: give answer, question or target.")
        query = f"SELECT id FROM packets WHERE {kind} = ? AND {kind} != '' ORDER BY slot, id"
        with self._reading():
            return [id for (id,) in self._db.execute(query, (tag,))]

    def search(
        self,
        queries: Float[Tensor, "queries d_model"],
        k: int,
        representation: Literal["raw", "residual"] = "raw",
        **where: int | str | None,
    ) -> Nearest:
        """The k packets with the greatest cosine to each query, among those that meet all conditions.

        The vectors stay in memory, one copy in one representation, until a packet is added or deleted.

        Args:
            representation: "raw" compares z, "residual" z - h; the queries must be of the same kind.
            where: conditions: slot, until (the last slot), after (an id), client, not_client, cluster.

        Raises:
            ValueError: an unknown representation or condition, or queries that `Index.search` refuses.
        """
        condition, values = where_clause(where)
        with self._reading(), self._transaction():
            index, numbers = self._indexed(representation)
            if condition:
                chosen = self._db.execute(f"SELECT number FROM packets {condition} ORDER BY number", values).fetchall()
        if not condition:
            return index.search(queries, k)
        return index.search(queries, k, torch.searchsorted(numbers, torch.tensor([*chain(*chosen)], dtype=torch.long)))

    def vectors(self, most: int = -1, **where: int | str | None) -> StoredVectors:
        """The vectors of the packets that meet the conditions (see `search`), at most so many, for a policy."""
        condition, values = where_clause(where)
        query = f"SELECT id, client, slot, z, h FROM packets {condition} ORDER BY slot, id LIMIT {int(most)}"
        with self._reading():
            rows = self._db.execute(query, values).fetchall()
        ids, clients, slots, z, h = zip(*rows, strict=True) if rows else [()] * 5
        return StoredVectors(ids, clients, slots, matrix(z), matrix(h))

    def set_clusters(self, clusters: Mapping[str, int]) -> None:
        """Store the cluster of each id. It replaces an earlier clustering; deleting a packet deletes its entry."""
        with self._transaction("IMMEDIATE"):
            self._db.execute("DELETE FROM clusters")
            for id, cluster in clusters.items():
                number = self._one("SELECT number FROM packets WHERE id = ?", id)
                self._db.execute("INSERT INTO clusters VALUES (?, ?)", (number, int(cluster)))

    def clusters(self) -> dict[str, int]:
        """The cluster of each id that has one."""
        with self._reading():
            return dict(self._db.execute("SELECT id, cluster FROM clusters JOIN packets USING (number) ORDER BY id"))

    def withdraw(self, client: str | None = None, packets: Sequence[str] | None = None) -> WithdrawalRequest:
        """Erase a client's packets, or those with these ids, and record that state derived from them is outdated.

        One transaction erases the packets, adds tombstones, deletes the clustering and records the request.
        Withdrawing twice changes nothing and returns the earlier request.

        Raises:
            ValueError: not exactly one of `client` and `packets` is given, or a packet was never stored; nothing has
                changed.
        """
        if (client is None) == (packets is None):
            raise ValueError("a withdrawal is of one client or of packets: give either `client` or `packets`.")
        self._index = None
        with self._transaction("IMMEDIATE"):
            return self._tombstones.bury(client, packets)

    def delete_client(self, name: str) -> int:
        """Erase a client's packets without a record, and return their number."""
        return self._delete("client", name)

    def delete_packet(self, id: str) -> int:
        """Erase one packet without a record, and return 1, or 0 if it was not stored."""
        return self._delete("id", id)

    def verify(self) -> list[Fault]:
        """Every row whose content has changed since it was stored or cannot be read, and damage to the file's pages.

        Bytes forged with a matching id are not detected.
        """
        return faults(self._db)

    def close(self) -> None:
        self._index = None
        super().close()

    def _put(self, data: bytes, sender: str | None, anew: bool) -> str:
        if self.rules is None:
            raise Refused("this registry was opened without rules and takes nothing in: give `Rules.of(lm)`.")
        packet = self.rules.check(data)
        if sender is not None and packet.client != sender:
            raise Refused(f"packet {packet.id[:12]} is of {packet.client!r}, not of {sender!r}: send only your own.")
        with self._transaction("IMMEDIATE"):
            self._check_pages()
            kept = self._db.execute("SELECT fingerprint FROM packets LIMIT 1").fetchone()
            if kept not in (None, (self.rules.fingerprint,)):
                raise Refused(
                    f"{self.path} keeps packets of another model ({kept[0][:12]}): give each model a registry."
                )
            if not self._db.execute("SELECT 1 FROM packets WHERE id = ?", (packet.id,)).fetchone():
                self._tombstones.admit(packet, sender, anew)
                row = row_of(packet)
                number = self._db.execute(f"INSERT INTO packets VALUES (NULL{', ?' * len(row)})", row).lastrowid
                if found := charge(self._db, self.rules.budget, self.rules.leverage, packet, number):
                    raise Refused(overdraft(packet.id, packet.client, found))
                self._index = None
        return packet.id

    def _indexed(self, representation: str) -> tuple[Index, Tensor]:
        """The index in memory and the rows' numbers; read again if this or another process has changed the file."""
        if representation not in REPRESENTATIONS:
            raise ValueError(f"there is no representation {representation!r}: give raw or residual.")
        version = (representation, self._db.execute("PRAGMA data_version").fetchone())
        if self._index is None or self._index[0] != version:
            self._index = None  # freed before the new one is read: only one copy in memory at any time
            self._index = (version, *self._read(REPRESENTATIONS[representation]))
        return self._index[1:]

    def _read(self, columns: str) -> tuple[Index, Tensor]:
        """All rows, read in blocks: z, or z - h if both columns are requested."""
        rows = self._db.execute(f"SELECT number, id, {columns} FROM packets ORDER BY number")
        whole, numbers, ids = torch.empty(0, 0), [], []
        while block := rows.fetchmany(BLOCK):
            some, names, *parts = zip(*block, strict=True)
            vectors = matrix(parts[0]) - matrix(parts[1]) if len(parts) > 1 else matrix(parts[0])
            if not ids:
                whole = torch.empty(len(self), vectors.shape[1])
            whole[len(ids) : len(ids) + len(names)] = vectors
            numbers += some
            ids += names
        return Index(ids, whole), torch.tensor(numbers, dtype=torch.long)

    def _delete(self, column: str, value: str) -> int:
        self._index = None  # the copy in memory is deleted, too
        with self._transaction("IMMEDIATE"):
            return self._db.execute(f"DELETE FROM packets WHERE {column} = ?", (value,)).rowcount

    def _one(self, query: str, id: str):
        row = self._db.execute(query, (id,)).fetchone()
        if row is None:
            raise ValueError(f"packet {id!r} is not in {self.path}: ask `find` or `search` for ids.")
        return row[0]
