"""The blind server's store: sealed packets in one file, the keys that open them in another one beside it.

The store cannot look into a packet. It checks what it can: size, form, tags, model, the publisher's signature, that the
publisher is a member of the present epoch, and how much each member stores.

*Crypto-erasure.* The wrapped keys are a small file of their own, which no backup contains: `backup` copies the packets
alone. A withdrawal overwrites and deletes the keys, and then the packets, in one transaction over both files. A copy of
the packets that was made before is then useless, even with the group's key. Out of reach remains: members who have
opened a packet, or keep its wrapped keys from a message; and blocks of the disk that the file system has freed (see
`federation.registry.erasure`).
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from fleke_lib.federation.registry.access import connect, explained, is_frozen
from fleke_lib.federation.registry.admission import HEAD, Refused, Rules
from fleke_lib.federation.registry.erasure import configure, cut_off
from fleke_lib.federation.registry.file import WithdrawableFile
from fleke_lib.federation.registry.integrity import Fault, damage
from fleke_lib.federation.registry.tombstones import Tombstones, WithdrawalRequest
from fleke_lib.federation.sealing.epochs import WRAPPED, Deal
from fleke_lib.federation.sealing.keys import Group
from fleke_lib.federation.sealing.sealed import Card, Sealed
from fleke_lib.storage.files import half_made, user_path

HEAD_COLUMNS = ("client", "slot", "epoch", "question", "answer", "fingerprint")
TABLES = """
    CREATE TABLE IF NOT EXISTS packets (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, client TEXT NOT NULL, slot INTEGER NOT NULL,
        epoch INTEGER NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, fingerprint TEXT NOT NULL,
        card BLOB NOT NULL, body BLOB NOT NULL, UNIQUE (client, slot, question, answer));
    CREATE INDEX IF NOT EXISTS by_epoch ON packets (slot, client, epoch);
    CREATE INDEX IF NOT EXISTS by_answer ON packets (answer);
"""
KEY_TABLES = """
    CREATE TABLE IF NOT EXISTS keys.wrapped (id TEXT PRIMARY KEY, keys BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS keys.deals (
        epoch INTEGER NOT NULL, member TEXT NOT NULL, deal BLOB NOT NULL, PRIMARY KEY (epoch, member));
"""
Record = tuple[bytes, bytes, bytes]  # a card, its body and its wrapped keys


def keys_of(path: Path) -> Path:
    """The file of the wrapped keys beside a file of sealed packets."""
    return path.with_name(f"{path.name}.keys")


class SealedStore(WithdrawableFile):
    """The sealed packets of a federation. One object belongs to one thread.

    Args:
        path: the file of the packets; `keys_of(path)` is the file of their keys. Both are created if they do not exist.
        rules: the model and the greatest size of the packets. Without rules and group nothing is taken in.
        group: the members; set `store.group` when it changes.
        quota: the greatest number of packets that a member may store.

    Raises:
        ValueError: a file cannot be opened or written, is locked, or is not of a store of sealed packets.
    """

    def __init__(
        self, path: str | Path, rules: Rules | None = None, group: Group | None = None, quota: int = 100_000
    ) -> None:
        self.path, self.rules, self.group, self.quota = user_path(path), rules, group, quota
        if is_frozen(self.path):
            raise ValueError(f"{path} cannot be written: give a copy in a folder where it can.")
        try:
            self._db = connect(self.path, TABLES, frozen=False)
            self._db.execute("ATTACH DATABASE ? AS keys", (str(keys_of(self.path)),))
            configure(self._db, "keys")
            self._db.executescript(KEY_TABLES)
            cut_off(self._db, keys_of(self.path), "keys")
            self._tombstones = _SealedTombstones(self._db)
        except sqlite3.Error as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise ValueError(explained(self.path, error)) from None

    def put(self, data: bytes, wrapped: bytes, sender: str | None = None) -> str:
        """Store a sealed packet with its wrapped keys; return its id once both are safe on the disk.

        Storing it again changes nothing. A withdrawn packet is refused from everybody, because who has recorded the
        message could send it again. Its owner can seal the packet anew.

        Args:
            sender: the pseudonym that the transport has authenticated.

        Raises:
            Refused: the packet or its keys are not admitted; nothing has changed.
        """
        sealed = self._admitted(data, wrapped, sender)
        head, id = sealed.card.head, sealed.id
        with self._transaction("IMMEDIATE"):
            self._check_pages()
            stored = self._db.execute("SELECT keys FROM keys.wrapped WHERE id = ?", (id,)).fetchone()
            if stored == (wrapped,):
                return id
            if stored is not None:
                raise Refused(f"sealed packet {id[:12]} is here with other keys: seal the packet anew to change them.")
            if fault := self._fault(sealed):
                raise Refused(f"sealed packet {id[:12]} {fault}.")
            about = (id, *(getattr(head, name) for name in HEAD_COLUMNS), sealed.card.data, sealed.body)
            columns = f"id, {', '.join(HEAD_COLUMNS)}, card, body"
            self._db.execute(f"INSERT INTO packets ({columns}) VALUES ({', '.join('?' * len(about))})", about)
            self._db.execute("INSERT INTO keys.wrapped VALUES (?, ?)", (id, wrapped))
        return id

    def since(self, number: int, asker: str) -> tuple[int, list[Record]]:
        """What others have published after the packet of this number, in order of arrival, and the last number."""
        query = "SELECT number, card, body, keys FROM packets JOIN keys.wrapped USING (id) WHERE number > ?"
        with self._reading():
            rows = self._db.execute(f"{query} AND client != ? ORDER BY number", (number, asker)).fetchall()
        return max([number, *(row[0] for row in rows)]), [row[1:] for row in rows]

    def cards(self, column: str, value: int | str, asker: str = "") -> list[tuple[bytes, bytes]]:
        """The cards of others, and their wrapped keys, by slot or by answer tag; in the order of slot and id."""
        if column not in ("slot", "answer"):
            raise ValueError(f"cards are not found by {column!r}: give slot or answer.")
        query = f"SELECT card, keys FROM packets JOIN keys.wrapped USING (id) WHERE {column} = ? AND client != ?"
        with self._reading():
            return self._db.execute(f"{query} ORDER BY slot, id", (value, asker)).fetchall()

    def bodies(self, ids: Sequence[str]) -> list[bytes]:
        """The bodies of sealed packets, in the order of `ids`. Raises ValueError for an id that is not stored."""
        with self._reading():
            rows = [self._db.execute("SELECT body FROM packets WHERE id = ?", (id,)).fetchone() for id in ids]
        if missing := [id for id, row in zip(ids, rows, strict=True) if row is None]:
            raise ValueError(f"sealed packet {missing[0][:12]!r} is not in {self.path}: ask for offers again.")
        return [body for (body,) in rows]

    def put_deal(self, data: bytes, sender: str | None = None) -> None:
        """Keep an epoch key that is dealt to a member, until the member asks for it.

        Raises:
            Refused: it is not of the group's dealer, not for a present member, or another one was dealt already.
        """
        deal, group = Deal.read(data), self._group()
        dealer, member = group.member(group.dealer), group.member(deal.member)
        if deal.dealer != dealer.name or sender not in (None, dealer.name) or not dealer.signed(*_signature(deal)):
            raise Refused(f"the key dealt for epoch {deal.epoch} is not of the dealer {dealer.name!r}: refused.")
        with self._transaction("IMMEDIATE"):
            which = (deal.epoch, member.name)
            row = self._db.execute("SELECT deal FROM keys.deals WHERE epoch = ? AND member = ?", which).fetchone()
            if row not in (None, (data,)):
                raise Refused(f"{member.name!r} was dealt another key for epoch {deal.epoch}: begin a new epoch.")
            if row is None:
                self._db.execute("INSERT INTO keys.deals VALUES (?, ?, ?)", (*which, data))

    def deals(self, member: str) -> list[bytes]:
        """The keys that were dealt to a member, by epoch."""
        query = "SELECT deal FROM keys.deals WHERE member = ? ORDER BY epoch"
        with self._reading():
            return [data for (data,) in self._db.execute(query, (member,))]

    def withdraw(self, client: str | None = None, packets: Sequence[str] | None = None) -> WithdrawalRequest:
        """Destroy the keys of a client's packets, or of those with these sealed ids, and delete the packets.

        One transaction overwrites and deletes the keys, deletes the packets, adds tombstones and records the request.

        Raises:
            ValueError: as `Registry.withdraw`; nothing has changed.
        """
        if (client is None) == (packets is None):
            raise ValueError("a withdrawal is of one client or of packets: give either `client` or `packets`.")
        with self._transaction("IMMEDIATE"):
            return self._tombstones.bury(client, packets)

    def backup(self, path: str | Path) -> Path:
        """Copy the file of the packets, without their keys, atomically."""
        path = user_path(path)
        with self._reading(), half_made(path) as half:
            copy = sqlite3.connect(half)
            try:
                self._db.backup(copy, name="main")
            finally:
                copy.close()
        return path

    def verify(self) -> list[Fault]:
        """Damage to the files, and every sealed packet that is not what was stored, or has no keys."""
        found = [Fault("", f"a file is damaged ({what})") for what in damage(self._db)]
        columns = f"id, {', '.join(HEAD_COLUMNS)}, card, body, keys"
        with self._reading():
            for row in self._db.execute(f"SELECT {columns} FROM packets LEFT JOIN keys.wrapped USING (id) ORDER BY id"):
                if what := _fault_of_row(row):
                    found.append(Fault(row[0], what))
        return found

    def _group(self) -> Group:
        if self.rules is None or self.group is None:
            raise Refused("this store was opened without rules or group and takes nothing in: give both.")
        return self.group

    def _admitted(self, data: bytes, wrapped: bytes, sender: str | None) -> Sealed:
        """The packet, if form, size, sender and signature are right."""
        group = self._group()
        if not (isinstance(data, bytes) and isinstance(wrapped, bytes)) or len(wrapped) != WRAPPED:
            raise Refused(f"a sealed packet is bytes, with {WRAPPED} bytes of wrapped keys: send what `wrap` made.")
        if len(data) > (limit := self.rules.limit + HEAD + 4 * self.rules.d_model):
            raise Refused(f"these {len(data)} bytes are more than the {limit} of a sealed packet: send fewer axes.")
        sealed = Sealed.read(data)
        name, head = f"sealed packet {sealed.id[:12]}", sealed.card.head
        if sender is not None and head.client != sender:
            raise Refused(f"{name} is of {head.client!r}, not of {sender!r}: send only your own.")
        if not group.member(head.client).signed(sealed.card.signature, sealed.card.signed):
            raise Refused(f"{name} does not have the signature of {head.client!r}: send what `seal` made.")
        if head.fingerprint != self.rules.fingerprint:
            given, expected = head.fingerprint[:12], self.rules.fingerprint[:12]
            raise Refused(f"{name} is of model {given!r} and these are of {expected!r}: seal one of this model.")
        return sealed

    def _fault(self, sealed: Sealed) -> str:
        """Why a packet that is not here yet must not come in, or an empty string."""
        head, epoch = sealed.card.head, self._group().epoch
        if self._tombstones.withdrawn([sealed.id]):
            return "was withdrawn: seal the packet anew to publish it again"
        if head.epoch != epoch:
            return f"is of epoch {head.epoch} and the group is at {epoch}: seal the packet with the present key"
        if self.rules and self.rules.slot not in (None, head.slot):
            return f"is of slot {head.slot}, and the present one is slot {self.rules.slot}: publish it under that"
        claim = (head.client, head.slot, head.question, head.answer)
        query = "SELECT 1 FROM packets WHERE client = ? AND slot = ? AND question = ? AND answer = ?"
        if self._db.execute(query, claim).fetchone():
            return f"repeats an answer that {head.client!r} has published in slot {head.slot}: withdraw that one before"
        (stored,) = self._db.execute("SELECT count(*) FROM packets WHERE client = ?", (head.client,)).fetchone()
        if stored >= self.quota:
            return f"is one more than the {self.quota} that {head.client!r} may store: withdraw some before"
        return ""


class _SealedTombstones(Tombstones):
    """Records of withdrawals that know a packet by its sealed id alone, and destroy its keys first."""

    def _rows(self, where: tuple[str, str]) -> list[tuple]:
        column, value = where
        query = f"SELECT number, id, client, CAST(id AS BLOB) FROM packets WHERE {column} = ?"
        return self._db.execute(query, (value,)).fetchall()

    def _vectors_mark(self, z: bytes) -> bytes:
        return self._mark("sealed", z)

    def _erase(self, numbers: Sequence[int]) -> None:
        which = [(number,) for number in numbers]
        here = "WHERE id = (SELECT id FROM packets WHERE number = ?)"
        self._db.executemany(f"UPDATE keys.wrapped SET keys = zeroblob(length(keys)) {here}", which)
        self._db.executemany(f"DELETE FROM keys.wrapped {here}", which)
        self._db.executemany("DELETE FROM packets WHERE number = ?", which)


def _signature(deal: Deal) -> tuple[bytes, bytes]:
    return deal.signature, deal.signed


def _fault_of_row(row: tuple) -> str:
    id, *about, card, body, keys = row
    try:
        sealed = Sealed(Card.read(card), body).checked()
    except Refused as error:
        return str(error)
    if sealed.id != id or tuple(about) != tuple(getattr(sealed.card.head, name) for name in HEAD_COLUMNS):
        return "the columns are not those of the packet"
    return "" if keys is not None and len(keys) == WRAPPED else "its keys are missing"
