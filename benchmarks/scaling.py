"""Seconds of three things that are linear in the number of facts, beside the ways that are not.

python -m benchmarks.scaling [--facts 100 1000 10000] [--width 64] [--most 3000] [--threads 2]

    look-up   one fact's MKV in a store of that many, 32 a file: by the files' headers, or by reading every file
    get       that many packets over a `Channel`: by position, or by cutting off what has been read
    ROME      that many writes one by one: added up to a matrix every 512, or all kept apart

Vectors are random and `width` wide, keys four times as wide. The slow ways of the last two stop at `most` facts.
"""

import argparse
import struct
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file

from fleke_lib.edit.rome import one_by_one
from fleke_lib.federation.server import ID, LENGTH, Channel
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.mkv.store import PART, mkv_of, write_mkvs
from fleke_lib.ridge.solve import interpolate
from fleke_lib.storage.rows import files_in, places, read_rows

PACKET = 25_000  # bytes, about what a fact takes on the default model


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--facts", type=int, nargs="+", default=[100, 1000, 10_000])
    options.add_argument("--width", type=int, default=64, help="numbers in a vector")
    options.add_argument("--most", type=int, default=3000, help="facts up to which slow ways are run")
    options.add_argument("--threads", type=int, default=2)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    print(f"width {chosen.width}, {chosen.threads} threads; seconds, and for each number of facts the ratio of the two")
    print(f"{'facts':>7}  {'':<10}{'here':>12}{'otherwise':>12}{'ratio':>8}")
    for facts in chosen.facts:
        slow = facts <= chosen.most
        show(facts, "look-up", *look_up(facts, chosen.width))
        show(facts, "get", *get(facts, slow))
        show(facts, "ROME", *rome(facts, chosen.width, slow))


def look_up(facts: int, width: int) -> tuple[float, float]:
    """One MKV out of a store: the median of nine look-ups, and one that reads all files."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for start in range(0, facts, PART):
            part = range(start, min(start + PART, facts))
            mkvs = {f"{i:064}": Mkv(torch.randn(width), torch.randn(width)) for i in part}
            write_mkvs(folder / f"{start}.safetensors", mkvs)
        wanted = f"{facts // 2:064}"
        one, first = timed(lambda: indexed(folder, wanted))
        again = [timed(lambda: indexed(folder, wanted))[1] for _ in range(9)]
        other, whole = timed(lambda: everything(folder, wanted))
        assert torch.equal(one.z, other.z), "the two ways differ"
        print(f"{facts:>7}  {'headers':<10}{first:12.5f}   the first look-up of a process")
        return median(again), whole


def indexed(folder: Path, name: str) -> Mkv:
    return mkv_of(read_rows([places(files_in(folder))[name]])[0])


def everything(folder: Path, name: str) -> Mkv:
    """As it was: every file is read, every row becomes an MKV."""
    found = {}
    for path in files_in(folder):
        tensors, names = load_file(path), list(places([path]))
        found |= {key: Mkv(z, h) for key, z, h in zip(names, tensors["z"], tensors["h"], strict=True)}
    return found[name]


class Answering:
    """A server that has these packets."""

    def __init__(self, packets: list[bytes]) -> None:
        self.answer = b"".join(struct.pack("<I", len(data)) + data for data in packets)

    def handle(self, kind: str, body: bytes, sender: str = "") -> bytes:
        return self.answer


def get(facts: int, slow: bool) -> tuple[float, float | None]:
    packets = [bytes(PACKET)] * facts
    server = Answering(packets)
    found, here = timed(lambda: Channel(server, "ada").get(["00" * ID] * facts))
    assert found == packets, "packets were cut in the wrong place"
    return here, timed(lambda: cut_off(server.answer))[1] if slow else None


def cut_off(answer: bytes) -> list[bytes]:
    """As it was: what is left is copied for every packet."""
    packets = []
    while answer:
        (length,) = struct.unpack("<I", answer[:LENGTH])
        packets.append(answer[LENGTH : LENGTH + length])
        answer = answer[LENGTH + length :]
    return packets


def rome(facts: int, width: int, slow: bool) -> tuple[float, float | None]:
    keys, wanted = torch.randn(facts, 4 * width).double(), torch.randn(facts, width).double()
    directions = keys + 0.1 * torch.randn(facts, 4 * width).double()
    found, here = timed(lambda: one_by_one(directions, keys, wanted))
    if not slow:
        return here, None
    other, whole = timed(lambda: kept_apart(directions, keys, wanted))
    error = float((found.dense() - other).norm() / other.norm())
    assert error < 1e-6, f"the two ways differ by {error}"
    return here, whole


def kept_apart(directions: torch.Tensor, keys: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """As it was: all writes so far are stacked for every fact."""
    left, right = [], []
    for u, k, r in zip(directions, keys, wanted, strict=True):
        already = torch.stack(left, 1) @ (torch.stack(right) @ k) if left else torch.zeros_like(r)
        write = interpolate(u, k, r - already)
        left.append(write.left[:, 0])
        right.append(write.right[0])
    return torch.stack(left, 1) @ torch.stack(right)


def timed(work: Callable):
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def show(facts: int, what: str, here: float, otherwise: float | None) -> None:
    known = "" if otherwise is None else f"{otherwise:12.5f}{otherwise / here:8.1f}"
    print(f"{facts:>7}  {what:<10}{here:12.5f}{known}", flush=True)


if __name__ == "__main__":
    main()
