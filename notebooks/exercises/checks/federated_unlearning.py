"""Checks of the exercises to chapter 06."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from torch import Tensor

from checks.algebra import least_squares, moment, normal
from checks.verdict import Right, ask, call, expect, judge

PIECE = 32  # bytes in a row that cannot be the same by chance
LAM = 0.5


class _Problem:
    """Twelve facts with keys that are much alike, the last four of which withdraw."""

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
    """Against the edit of a federation that the client never joined, by least squares."""
    p = _Problem()
    S, T = p.keys.T @ p.keys, p.shares.T @ p.keys
    gone, shares = p.keys[p.gone], p.shares[p.gone]
    found = ask(withdrawn, S, T, gone, shares, p.C, LAM)
    system, rest = LAM * p.C + S, T - shares.T @ gone
    mistakes = {
        "nothing was withdrawn: this is the edit of everybody.": p.before,
        "the client's own update is taken off: it was solved alone, and among the others it did something else.": (
            p.before - p.own
        ),
        "T forgets the client and S still knows its keys.": torch.linalg.solve(system, rest.T).T,
        "S forgets the client's keys and T still has its shares.": torch.linalg.solve(system - gone.T @ gone, T.T).T,
        "this is the client's own edit.": p.own,
    }
    judge("dW", found, p.never, mistakes, "dW is not that of a federation which the client never joined.")
    far = float((p.before - p.own - p.never).norm() / (p.before - p.never).norm())
    return Right(f"the never-joined weights; taking off its own update ends {far:.0%} of its effect away from them.")


def check_downdated(downdated: Callable) -> Right:
    """Against solving again without them; the old system is available through a counter only."""
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
        "nothing was withdrawn.": p.before,
        "this is one step with the old system, the influence function: what is gone still holds the others.": (
            p.before - missing.T @ G.T
        ),
        "each fact is right by itself, but the four are not independent: their keys are alike.": (
            p.before - missing.T @ apart.T
        ),
        "their shares are taken off as if nothing of them had been missing yet.": (
            p.before - shares.T @ torch.linalg.solve(inner, G.T)
        ),
        "the facts were added a second time instead of taken out.": least_squares(
            torch.cat([p.keys, keys]), torch.cat([p.shares, shares]), p.C, LAM
        ),
    }
    judge("dW", found, p.never, mistakes, "dW is not what solving again without these facts gives.")
    expect(columns <= len(keys), f"`solve` had to answer for {columns} columns: {len(keys)} facts need no more than 4.")
    return Right("the never-joined weights, from four columns and a system of four unknowns.")


def check_erased(erased: Callable) -> Right:
    """The files are searched for pieces of the client's vectors, while the registry is still in use."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "registry.db"
        draw = random.Random(0)
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
    return Right(f"no piece of {PIECE} bytes is left in {size:,} bytes of files, and the others' rows are whole.")


def _check_rows(rows: list[tuple[str, bytes]], vectors: dict[tuple[str, int], bytes]) -> None:
    left = [who for who, _ in rows].count("bob")
    expect(not left, f"{left} rows of the client are there for other connections: is the change committed?")
    others = sorted(v for (who, _), v in vectors.items() if who != "bob")
    expect(sorted(v for _, v in rows) == others, "rows of other clients are gone or changed.")


def _check_bytes(folder: Path, gone: list[bytes]) -> int:
    """The size of the files, in which nothing may be found."""
    pieces = [vector[i : i + PIECE] for vector in gone for i in range(0, len(vector) - PIECE + 1, PIECE)]
    contents = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    found = {name: sum(piece in content for piece in pieces) for name, content in contents.items()}
    main, log = (sum(n for name, n in found.items() if name.endswith(end)) for end in (".db", "-wal"))
    of = f"of {len(pieces)} pieces of the vectors are in"
    expect(not log, f"{log} {of} the log of writes beside the database, which has not been emptied.")
    expect(not main, f"{main} {of} registry.db: what is deleted keeps its bytes.")
    return sum(map(len, contents.values()))
