"""A packet as a row of the registry: the columns, their expected content, and the conditions of a query."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.federation.packets.packet import Packet

COLUMNS = ("id", "client", "slot", "question", "answer", "target", "fingerprint", "z", "h", "data")
TABLES = """
    CREATE TABLE IF NOT EXISTS packets (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, client TEXT NOT NULL, slot INTEGER NOT NULL,
        question TEXT NOT NULL, answer TEXT NOT NULL, target TEXT NOT NULL, fingerprint TEXT NOT NULL,
        z BLOB NOT NULL, h BLOB NOT NULL, data BLOB NOT NULL);
    CREATE INDEX IF NOT EXISTS by_slot ON packets (slot, client);
    CREATE INDEX IF NOT EXISTS by_client ON packets (client);
    CREATE INDEX IF NOT EXISTS by_question ON packets (question);
    CREATE INDEX IF NOT EXISTS by_answer ON packets (answer);
    CREATE INDEX IF NOT EXISTS by_target ON packets (target);
    CREATE TABLE IF NOT EXISTS clusters (
        number INTEGER PRIMARY KEY REFERENCES packets ON DELETE CASCADE, cluster INTEGER NOT NULL);
"""
CONDITIONS = {
    "slot": "slot = ?",
    "until": "slot <= ?",
    "after": "id > ?",
    "client": "client = ?",
    "not_client": "client != ?",
    "cluster": "number IN (SELECT number FROM clusters WHERE cluster = ?)",
}


def row_of(packet: Packet) -> tuple:
    """A packet in the order of COLUMNS."""
    about = (packet.client, packet.slot, packet.question, packet.answer, packet.target, packet.fingerprint)
    return (packet.id, *about, packet.z.numpy().tobytes(), packet.h.numpy().tobytes(), packet.data)


def fault_of(row: tuple) -> str:
    """Which columns of a row differ from the packet in its bytes, or an empty string."""
    id, *_, data = row
    if not isinstance(data, bytes) or hashlib.sha256(data).hexdigest() != id:
        return "the bytes do not hash to the id"
    try:
        expected = row_of(Packet.read(data))
    except ValueError:
        return "the bytes are not a packet"
    wrong = [name for name, here, there in zip(COLUMNS, row, expected, strict=True) if here != there]
    return f"{', '.join(wrong)} not as in the packet" if wrong else ""


def where_clause(where: Mapping[str, int | str | None]) -> tuple[str, list]:
    """The conditions in SQL, and their values; a condition with the value None is left out."""
    given = {name: value for name, value in where.items() if value is not None}
    if unknown := given.keys() - CONDITIONS.keys():
        raise ValueError(f"there is no condition {', '.join(unknown)}: give some of {', '.join(CONDITIONS)}.")
    return f"WHERE {' AND '.join(CONDITIONS[name] for name in given)}" if given else "", [*given.values()]


def matrix(blobs: Sequence[bytes]) -> Float[Tensor, "rows d"]:
    """The float32 vectors of a column z or h as the rows of a matrix."""
    if not blobs:
        return torch.empty(0, 0)
    if len({len(blob) for blob in blobs}) > 1:
        raise ValueError("the vectors here are of different widths, so the file was tampered with: call `verify`.")
    return torch.frombuffer(bytearray(b"".join(blobs)), dtype=torch.float32).view(len(blobs), -1)
