"""What all stores of packets have in common: an open SQLite file, its transactions, and the record of withdrawals."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from fleke_lib.federation.registry.access import GO_ON, trouble
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.registry.integrity import damage
from fleke_lib.federation.registry.tombstones import Tombstones, WithdrawalRequest


class WithdrawableFile:
    """An open file with a table of packets. A subclass opens it and sets the attributes.

    _frozen: whether the file is open for reading alone.
    _sound: whether its pages were checked before something was put in.
    """

    path: Path
    _db: sqlite3.Connection
    _tombstones: Tombstones
    _frozen: bool = False
    _sound: bool = False

    def pending(self) -> list[WithdrawalRequest]:
        """The requests that are not completed, oldest first: packets erased, derived state not yet recomputed.

        A process reads this when it starts, recomputes what depends on `withdrawn` packets, and calls `complete`.
        """
        with self._reading():
            return self._tombstones.pending()

    def complete(self, request: WithdrawalRequest) -> WithdrawalRequest:
        """Record that nothing derived from a request's packets is left, and return the updated request."""
        with self._transaction("IMMEDIATE"):
            return self._tombstones.complete(request.number)

    def withdrawn(self, ids: Sequence[str], request: WithdrawalRequest | None = None) -> list[str]:
        """Those of these ids, in their order, that were withdrawn; with a request, those that it withdrew."""
        with self._reading():
            return self._tombstones.withdrawn(ids, request and request.number)

    def counts(self) -> list[tuple[str, int, int]]:
        """Who has published how many packets in which slot: pseudonym, slot and number, in this order."""
        query = "SELECT client, slot, count(*) FROM packets GROUP BY client, slot ORDER BY client, slot"
        with self._reading():
            return self._db.execute(query).fetchall()

    def close(self) -> None:
        self._db.close()

    def __len__(self) -> int:
        with self._reading():
            return self._db.execute("SELECT count(*) FROM packets").fetchone()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check_pages(self) -> None:
        """Raise Refused if the file is damaged; checked before the first packet is put in."""
        if not self._sound and (found := damage(self._db, "quick_check")):
            raise Refused(f"{self.path} is damaged ({found[0]}): call `verify` for all, and go on with a backup.")
        self._sound = True

    @contextmanager
    def _transaction(self, kind: Literal["DEFERRED", "IMMEDIATE"] = "DEFERRED") -> Iterator[None]:
        """All reads see one state of the file, and all writes happen or none."""
        if self._frozen and kind == "IMMEDIATE":
            raise ValueError(f"{self.path} is open for reading alone, as it cannot be written: give a copy elsewhere.")
        try:
            self._db.execute(f"BEGIN {kind}")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:  # SQLite ends it itself when the disk fails
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.DatabaseError) and (said := trouble(self.path, error)):
                raise ValueError(said) from error
            raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A file that cannot be read is named in one sentence."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise ValueError(trouble(self.path, error) or f"{self.path} cannot be read ({error}): {GO_ON}") from error
