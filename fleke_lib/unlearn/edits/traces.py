"""Traces: pieces of withdrawn packets, searched byte by byte in every file of a folder.

Each vector is looked for as a registry keeps it (z and h in float32) and as it travels (every tensor of the packet, in
the packet's own precision), tags and id as text and raw. Whatever is looked for is cut into pieces of 32 bytes, and a
piece is found wherever it lies; so any 63 bytes in a row that are left of a vector are found. Two kinds of pieces would
give false alarms and are left out: those with fewer than eight different bytes, such as zeros, and those that a packet
which stays has as well.

What is not found: numbers that were written as text, compressed, encrypted or computed with, and what is not in a file.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8, UInt64

from fleke_lib.federation.packets.packet import Packet

PIECE = 32  # bytes
DIFFERENT = 8  # bytes of a piece that must differ from each other
BLOCK = 1 << 24  # bytes of a file that are looked at together
ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)  # one for each word of a piece

Bytes = UInt8[np.ndarray, " bytes"]


@dataclass(frozen=True)
class ByteTrace:
    """Bytes of a withdrawn packet in a file: `length` of them from `offset` on, of `what` in the packet."""

    file: Path
    offset: int
    length: int
    what: str
    packet: str = field(repr=False)


@dataclass(frozen=True)
class Search:
    """What was found; a sequence of traces, by file and offset.

    pieces: how many were looked for. packets: of how many packets. files, size: where, in files and bytes.
    """

    found: tuple[ByteTrace, ...]
    pieces: int
    packets: int
    files: int
    size: int

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[ByteTrace]:
        return iter(self.found)

    def of(self, packet: Packet) -> tuple[ByteTrace, ...]:
        """The traces of one packet."""
        return tuple(trace for trace in self.found if trace.packet == packet.id)

    def __repr__(self) -> str:
        return (
            f"Search({len(self)} traces of {self.packets} packets; {self.pieces:,} pieces looked for "
            f"in {self.files} files, {self.size / 1e6:.2f} MB)"
        )


def traces(place: str | Path, packets: Sequence[Packet], kept: Sequence[Packet] = ()) -> Search:
    """Search a file, or every file under a folder, for the bytes of packets.

    Args:
        kept: packets that stay; what they have in common with the withdrawn ones is not looked for.

    Raises:
        ValueError: there is no packet, no file, something that is no ordinary file, or a packet of which nothing can be
            looked for.
        OSError: a file cannot be read; none is left out.
    """
    if not packets:
        raise ValueError("there is no packet to look for: give those that were withdrawn.")
    pieces, files = _Pieces(packets, kept), sorted(_files(Path(place)))
    if not files:
        raise ValueError(f"there is no file in {place}: give the folder of the registry or of the run.")
    found, size = [], 0
    for file in files:
        content = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)
        found += [ByteTrace(file, *trace) for trace in pieces.search(content)]
        size += len(content)
    return Search(tuple(found), len(pieces), len(packets), len(files), size)


def wholes(packet: Packet) -> dict[str, bytes]:
    """Everything that is looked for of a packet, in each form in which it may lie in a file."""
    size = int.from_bytes(packet.data[:8], "little")
    head, numbers = json.loads(packet.data[8 : 8 + size]), packet.data[8 + size :]
    found = {name: numbers[slice(*about["data_offsets"])] for name, about in head.items() if name != "__metadata__"}
    found |= {"z in float32": packet.z.numpy().tobytes(), "h in float32": packet.h.numpy().tobytes()}
    for name in ("id", "question", "answer", "target"):
        text = getattr(packet, name)
        found |= {name: text.encode(), f"{name}, raw": bytes.fromhex(text)}
    return found


class _Pieces:
    """The pieces of some packets, and where each comes from."""

    def __init__(self, packets: Sequence[Packet], kept: Sequence[Packet]) -> None:
        self._whole = {(packet.id, what): whole for packet in packets for what, whole in wholes(packet).items()}
        self._at: dict[bytes, tuple[tuple[str, str], int]] = {}
        for owner, whole in self._whole.items():
            ends = range(PIECE, len(whole) + 1, PIECE)
            for end in {*ends, len(whole)} if ends else ():  # the last piece overlaps the one before it
                piece = whole[end - PIECE : end]
                if len(set(piece)) >= DIFFERENT:
                    self._at.setdefault(piece, (owner, end - PIECE))
        self._hashes = _sorted(self._at)
        apart = bytes(PIECE).join(whole for packet in kept for whole in wholes(packet).values())
        for piece in {piece for _, piece in self._hits(np.frombuffer(apart, np.uint8))}:
            del self._at[piece]
        self._hashes = _sorted(self._at)
        there = {owner for (owner, _), _ in self._at.values()}
        if missing := [packet.id for packet in packets if packet.id not in there]:
            raise ValueError(f"all of packet {missing[0][:12]} is in packets that stay: keep none equal to it.")

    def __len__(self) -> int:
        return len(self._at)

    def search(self, content: Bytes) -> list[tuple[int, int, str, str]]:
        """Offset, length, what and packet of every trace: pieces next to each other make one, up to its whole."""
        found, until = [], dict.fromkeys(self._whole, 0)
        for offset, piece in self._hits(content):
            owner, start = self._at[piece]
            if offset < until[owner]:
                continue  # a part of the trace before
            first, last = _reach(content, offset, self._whole[owner], start)
            until[owner] = last
            found.append((first, last - first, owner[1], owner[0]))
        return found

    def _hits(self, content: Bytes) -> Iterator[tuple[int, bytes]]:
        """Every place, in order, where a piece lies."""
        for begin in range(0, len(content) - PIECE + 1, BLOCK):
            block = np.ascontiguousarray(content[begin : begin + BLOCK + PIECE - 1])
            for offset in _candidates(block, self._hashes):
                piece = block[offset : offset + PIECE].tobytes()
                if piece in self._at:
                    yield begin + int(offset), piece


def _sorted(pieces: dict[bytes, tuple]) -> UInt64[np.ndarray, " pieces"]:
    joined = np.frombuffer(b"".join(pieces), np.uint64).reshape(-1, PIECE // 8)
    return np.sort(_hash([*joined.T])) if len(joined) else np.empty(0, np.uint64)


def _candidates(block: Bytes, hashes: UInt64[np.ndarray, " pieces"]) -> Int[np.ndarray, " places"]:
    """Places whose 32 bytes have the hash of a piece, in order: all offsets, one remainder by eight after the other."""
    found = [np.empty(0, int)]
    for shift in range(8 if len(hashes) else 0):
        words = block[shift : shift + (len(block) - shift) // 8 * 8].view(np.uint64)
        if (n := len(words) - PIECE // 8 + 1) < 1:
            continue
        here = _hash([words[i : i + n] for i in range(PIECE // 8)])
        place = np.minimum(np.searchsorted(hashes, here), len(hashes) - 1)
        found.append(8 * np.flatnonzero(hashes[place] == here) + shift)
    return np.sort(np.concatenate(found))


def _hash(words: Sequence[UInt64[np.ndarray, " n"]]) -> UInt64[np.ndarray, " n"]:
    """A number for four words, by products that overflow; what has the same one is compared byte by byte."""
    return sum((word * np.uint64(odd) for word, odd in zip(words, ODD, strict=True)), np.zeros_like(words[0]))


def _reach(content: Bytes, offset: int, whole: bytes, start: int) -> tuple[int, int]:
    """How far content and whole agree around a place where they do."""
    back, on = min(offset, start), min(len(content) - offset, len(whole) - start)
    one, other = content[offset - back : offset + on], np.frombuffer(whole, np.uint8)[start - back : start + on]
    unlike = np.flatnonzero(one != other)
    before, after = unlike[unlike < back], unlike[unlike >= back]
    first, last = before[-1] + 1 if len(before) else 0, after[0] if len(after) else back + on
    return offset - back + int(first), offset - back + int(last)


def _files(place: Path) -> Iterator[Path]:
    """A file, or all files under a folder; a link to a file is read, one to a folder is not followed."""

    def fail(error: OSError) -> None:
        raise error

    if not place.is_dir():
        place.stat()  # raises where there is nothing
        yield place
        return
    for folder, _, names in os.walk(place, onerror=fail):
        for name in names:
            file = Path(folder, name)
            file.stat()
            if not file.is_file():
                raise ValueError(f"{file} is not an ordinary file and cannot be searched: remove it, and search again.")
            yield file
