"""Seconds to search MKVs: row by row from the file, one query at a time in memory, and all queries in one batch.

python -m benchmarks.registry [--rows 1000000] [--width 576] [--queries 1000] [--stored 20000] [--threads 2]

The vectors are random and take rows x width x 4 bytes of memory (2.3 GB by default). Fewer rows are searched in the
file, and the seconds are scaled up to all rows. All three ways are exact. A single query is limited by memory
bandwidth, and a batch of queries by the processor, so the last ratio depends on the machine.
"""

import argparse
import sqlite3
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from fleke_lib.federation import Registry
from fleke_lib.federation.registry.index import Index
from fleke_lib.federation.registry.registry import COLUMNS


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=1_000_000, help="vectors that are searched")
    options.add_argument("--width", type=int, default=576, help="numbers in a vector")
    options.add_argument("--queries", type=int, default=1000, help="queries that are asked together")
    options.add_argument("--stored", type=int, default=20_000, help="vectors that are written to a file")
    options.add_argument("--threads", type=int, default=2)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"{chosen.rows} x {chosen.width} numbers, {chosen.queries} queries, {chosen.threads} threads")

    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(chosen.queries, chosen.width, generator=generator)
    with TemporaryDirectory() as folder:
        stored = torch.randn(chosen.stored, chosen.width, generator=generator)
        path, scale = Path(folder) / "registry.sqlite", chosen.rows / chosen.stored
        with Registry(path) as registry:
            fill(registry, stored)
            best, naive = timed(lambda: row_by_row(path, queries[0].numpy()))
            found, load = timed(lambda: registry.search(queries[:1], 1))
            assert found.ids == [[best]], "the two ways differ"
    show("row by row out of the file (scaled up), a query", naive * scale)
    show("reading the vectors into memory (scaled up), once", load * scale)

    index = Index(range(chosen.rows), torch.empty(chosen.rows, chosen.width).normal_(generator=generator))
    index.search(queries[:1], 10)  # the first product starts the threads
    alone = [timed(lambda i=i: index.search(queries[i : i + 1], 10)) for i in range(min(9, chosen.queries))]
    one = median(seconds for _, seconds in alone)
    show("in memory, one at a time, a query", one)
    together, batch = timed(lambda: index.search(queries, 10))
    assert [found.ids[0] for found, _ in alone] == together.ids[: len(alone)], "the two ways differ"
    each = batch / chosen.queries
    show("in memory, all together, a query", each)
    print(f"ratios: together to row by row {naive * scale / each:.0f}, together to one at a time {one / each:.1f}")
    print(f"all together {2e-9 * chosen.rows * chosen.width * chosen.queries / batch:.0f} GFLOP/s, {batch:.1f} s")
    print(f"one at a time {4e-9 * chosen.rows * chosen.width / one:.0f} GB/s")


def fill(registry: Registry, vectors: torch.Tensor) -> None:
    """Insert rows with these vectors as z and h and nothing else; making packets would take longer than searching."""
    empty = {name: "" for name in COLUMNS} | {"slot": 0, "data": b""}
    rows = (
        tuple((empty | {"id": str(i), "z": z.numpy().tobytes(), "h": z.numpy().tobytes()}).values())
        for i, z in enumerate(vectors)
    )
    with registry._transaction("IMMEDIATE"):
        registry._db.executemany(f"INSERT INTO packets VALUES (NULL{', ?' * len(COLUMNS)})", rows)


def row_by_row(path: Path, query: np.ndarray) -> str:
    """The id of the nearest row; each row is read and compared separately."""
    file, best = sqlite3.connect(path), (-2.0, "")
    for id, blob in file.execute("SELECT id, z FROM packets"):
        z = np.frombuffer(blob, np.float32)
        best = max(best, (float(z @ query) / float(np.linalg.norm(z)), id))
    file.close()
    return best[1]


def timed(work):
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def show(what: str, seconds: float) -> None:
    print(f"{what:<52}{seconds:10.4f} s")


if __name__ == "__main__":
    main()
