"""Checks of the exercises to chapter 06b."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from torch import Tensor

from checks.algebra import dice, least_squares, moment, normal
from checks.verdict import Right, ask, call, expect, judge

PIECE = 32  # bytes in a row that cannot be the same by chance
LAM = 0.5


class _Problem:
    """Twelve facts with similar keys; the last four are withdrawn."""

    def __init__(self, d_mlp: int = 18, d_model: int = 5) -> None:
        self.C = moment(d_mlp, seed=0)
        self.keys = 2 * normal(1, d_mlp, seed=1) + normal(12, d_mlp, seed=2)
        self.shares = normal(12, d_model, seed=3)
        self.gone, self.kept = slice(8, 12), slice(0, 8)
        self.before = self.solved(slice(0, 12))
        self.never = self.solved(self.kept)  # the federation that the client never joined
        self.own = self.solved(self.gone)

    def solved(self, facts: slice) -> Float[Tensor, "d_model d_mlp"]:
        return least_squares(self.keys[facts], self.shares[facts], self.C, LAM)


def check_withdrawn(withdrawn: Callable) -> Right:
    """Compares with the edit of a federation that the client never joined, by least squares."""
    p = _Problem()
    S, T = p.keys.T @ p.keys, p.shares.T @ p.keys
    gone, shares = p.keys[p.gone], p.shares[p.gone]
    found = ask(withdrawn, S, T, gone, shares, p.C, LAM)
    system, rest = LAM * p.C + S, T - shares.T @ gone
    mistakes = {
        "nothing was withdrawn: this is still everybody's edit.": p.before,
        "the client's own update is subtracted: solved alone, its facts give another update than among others.": (
            p.before - p.own
        ),
        "T no longer has the client's facts, but S still has its keys.": torch.linalg.solve(system, rest.T).T,
        "S no longer has the client's keys, but T has its shares.": torch.linalg.solve(system - gone.T @ gone, T.T).T,
        "this is the edit of the client's facts alone.": p.own,
    }
    judge("dW", found, p.never, mistakes, "dW is not the edit of a federation that the client never joined.")
    far = float((p.before - p.own - p.never).norm() / (p.before - p.never).norm())
    return Right(f"these are the never-joined weights; its own update, subtracted, misses by {far:.0%} of its effect.")


def check_downdated(downdated: Callable) -> Right:
    """Compares with solving again without them. `solve` counts the columns it is asked for."""
    p, asked = _Problem(), []

    def solve(b: Tensor) -> Tensor:
        asked.append(1 if b.ndim == 1 else b.shape[1])
        return torch.linalg.solve(LAM * p.C + p.keys.T @ p.keys, b)

    keys, shares = p.keys[p.gone], p.shares[p.gone]
    found = ask(downdated, solve, p.before, keys, shares)
    columns = sum(asked)
    G = torch.linalg.solve(LAM * p.C + p.keys.T @ p.keys, keys.T)
    missing, inner = shares - keys @ p.before.T, torch.eye(4, dtype=keys.dtype) - keys @ G
    apart = G / torch.diagonal(inner)
    mistakes = {
        "nothing was withdrawn: this is still everybody's edit.": p.before,
        "this is one step with the old system, the influence function: A still contains the keys that leave.": (
            p.before - missing.T @ G.T
        ),
        "each fact alone is taken out correctly, but the four are not independent: their keys are similar.": (
            p.before - missing.T @ apart.T
        ),
        "you used their whole shares, but only what dW does not deliver of them counts.": (
            p.before - shares.T @ torch.linalg.solve(inner, G.T)
        ),
        "the facts were added a second time instead of being removed.": least_squares(
            torch.cat([p.keys, keys]), torch.cat([p.shares, shares]), p.C, LAM
        ),
    }
    judge("dW", found, p.never, mistakes, "dW is not what solving again without these facts gives.")
    expect(columns <= len(keys), f"`solve` was asked for {columns} columns: {len(keys)} facts need only {len(keys)}.")
    return Right("these are the never-joined weights, from four columns and a system of four unknowns.")


def check_erased(erased: Callable) -> Right:
    """Searches the files for pieces of the client's vectors while another connection has the registry open."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "registry.db"
        draw = dice(0)
        vectors = {(client, i): draw.randbytes(600) for i in range(8) for client in ("ada", "bob", "cyd")}
        with closing(sqlite3.connect(path)) as server, closing(sqlite3.connect(path)) as db:
            server.execute("PRAGMA journal_mode = WAL")
            server.execute("CREATE TABLE packets (client TEXT NOT NULL, vector BLOB NOT NULL)")
            server.executemany("INSERT INTO packets VALUES (?, ?)", [(who, v) for (who, _), v in vectors.items()])
            server.commit()
            server.execute("PRAGMA wal_checkpoint").fetchall()  # copied into the database, and still in the log
            db.execute("PRAGMA secure_delete = OFF")  # some builds of SQLite begin with ON
            call(erased, db, "bob")
            rows = server.execute("SELECT client, vector FROM packets").fetchall()
            _check_rows(rows, vectors)
            size = _check_bytes(Path(folder), [v for (who, _), v in vectors.items() if who == "bob"])
    return Right(f"no piece of {PIECE} bytes is left in {size:,} bytes of files, and the others' rows are intact.")


def _check_rows(rows: list[tuple[str, bytes]], vectors: dict[tuple[str, int], bytes]) -> None:
    left = [who for who, _ in rows].count("bob")
    expect(not left, f"other connections still see {left} rows of the client: is the change committed?")
    others = sorted(v for (who, _), v in vectors.items() if who != "bob")
    expect(sorted(v for _, v in rows) == others, "rows of other clients are missing or changed.")


def _check_bytes(folder: Path, gone: list[bytes]) -> int:
    """The total size of the files; fails where a piece of a vector is found in them."""
    pieces = [vector[i : i + PIECE] for vector in gone for i in range(0, len(vector) - PIECE + 1, PIECE)]
    contents = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    found = {name: sum(piece in content for piece in pieces) for name, content in contents.items()}
    main, log = (sum(n for name, n in found.items() if name.endswith(end)) for end in (".db", "-wal"))
    of = f"of {len(pieces)} pieces of the vectors are in"
    expect(not log, f"{log} {of} the write-ahead log beside the database, which was not emptied.")
    expect(not main, f"{main} {of} registry.db: the deleted rows left their bytes there.")
    return sum(map(len, contents.values()))
