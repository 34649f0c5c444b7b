"""Traces: pieces of withdrawn packets, searched byte by byte in every file of a folder.

The search covers each vector as a registry stores it (z and h in float32) and as it is sent (every tensor of the
packet, in the packet's precision), and tags and ids as text and as raw bytes. If MKVs are given, it also covers their z
as a cache of MKVs stores it; a packet rounds this z. All of these are cut into pieces of 32 bytes, and a piece is found
at any offset. Any 63 consecutive bytes that are left of a vector are therefore found. Two kinds of pieces would give
false alarms and are left out: those with fewer than eight different bytes, such as zeros, and those that also occur in
a packet that stays.

Not found are numbers that were written as text, compressed, encrypted or transformed, and anything outside files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.mkv.store import mkv_row
from fleke_lib.storage.files import user_path
from fleke_lib.storage.pieces import PIECE, Bytes, content_of, cut, files_in, hits

DIFFERENT = 8  # fewest different bytes in a piece


@dataclass(frozen=True)
class ByteTrace:
    """Bytes of a withdrawn packet in a file.

    offset, length: their place in the file, in bytes. what: the part of the packet. packet: its id.
    """

    file: Path
    offset: int
    length: int
    what: str
    packet: str = field(repr=False)


@dataclass(frozen=True)
class Search:
    """The result of a search: a sequence of traces, by file and offset.

    pieces, packets: numbers of pieces searched for, and of packets that they are from.
    files, size: number of files searched, and their size in bytes.
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


def traces(
    place: str | Path | Sequence[str | Path],
    packets: Sequence[Packet],
    kept: Sequence[Packet] = (),
    mkvs: Mapping[str, Mkv] = MappingProxyType({}),
) -> Search:
    """Search files, or every file under folders, for the bytes of packets.

    Args:
        place: a file or a folder, or several of them, such as the registry's and that of cached MKVs.
        packets: the withdrawn ones.
        kept: packets that stay; pieces that they share with the withdrawn ones are not searched for.
        mkvs: by the id of a withdrawn packet, its MKV before it was packed, if nobody who stays holds the same fact.

    Raises:
        ValueError: there is no packet or no file, something is not an ordinary file, or a packet has no piece of its
            own.
        OSError: a file cannot be read; files are never skipped.
    """
    if not packets:
        raise ValueError("there is no packet to look for: give those that were withdrawn.")
    if strange := set(mkvs) - {packet.id for packet in packets}:
        raise ValueError(f"the MKV of {min(strange)[:12]!r} is of no withdrawn packet: give those of `packets`.")
    places = [place] if isinstance(place, str | Path) else place
    pieces, files = _Pieces(packets, kept, mkvs), sorted({file for one in places for file in files_in(user_path(one))})
    if not files:
        raise ValueError(f"there is no file in {place}: give the folder of the registry or of the run.")
    found, size = [], 0
    for file in files:
        content = content_of(file)
        found += [ByteTrace(file, *trace) for trace in pieces.search(content)]
        size += len(content)
    return Search(tuple(found), len(pieces), len(packets), len(files), size)


def wholes(packet: Packet) -> dict[str, bytes]:
    """All parts of a packet that are searched for, in each form in which a file may contain them."""
    size = int.from_bytes(packet.data[:8], "little")
    head, numbers = json.loads(packet.data[8 : 8 + size]), packet.data[8 + size :]
    found = {name: numbers[slice(*about["data_offsets"])] for name, about in head.items() if name != "__metadata__"}
    found |= {"z in float32": packet.z.numpy().tobytes(), "h in float32": packet.h.numpy().tobytes()}
    for name in ("id", "question", "answer", "target"):
        text = getattr(packet, name)
        found |= {name: text.encode(), f"{name}, raw": bytes.fromhex(text)}
    return found


class _Pieces:
    """The pieces of some packets, and the part and offset that each is from."""

    def __init__(self, packets: Sequence[Packet], kept: Sequence[Packet], mkvs: Mapping[str, Mkv]) -> None:
        self._whole = {(packet.id, what): whole for packet in packets for what, whole in wholes(packet).items()}
        self._whole |= {(name, "z of its MKV"): mkv_row(mkv)["z"].numpy().tobytes() for name, mkv in mkvs.items()}
        self._at: dict[bytes, tuple[tuple[str, str], int]] = {}
        for owner, whole in self._whole.items():
            for start, piece in cut(whole, DIFFERENT):
                self._at.setdefault(piece, (owner, start))
        apart = bytes(PIECE).join(whole for packet in kept for whole in wholes(packet).values())
        for piece in {piece for _, piece in hits(self._at, np.frombuffer(apart, np.uint8))}:
            del self._at[piece]
        there = {owner for (owner, _), _ in self._at.values()}
        if missing := [packet.id for packet in packets if packet.id not in there]:
            raise ValueError(f"all of packet {missing[0][:12]} is in packets that stay: keep none equal to it.")

    def __len__(self) -> int:
        return len(self._at)

    def search(self, content: Bytes) -> list[tuple[int, int, str, str]]:
        """Offset, length, part and packet of every trace; adjacent pieces of one part are joined."""
        found, until = [], dict.fromkeys(self._whole, 0)
        for offset, piece in hits(self._at, content):
            owner, start = self._at[piece]
            if offset < until[owner]:
                continue  # inside the previous trace
            first, last = _reach(content, offset, self._whole[owner], start)
            until[owner] = last
            found.append((first, last - first, owner[1], owner[0]))
        return found


def _reach(content: Bytes, offset: int, whole: bytes, start: int) -> tuple[int, int]:
    """The span of content, around a matching offset, in which it agrees with whole."""
    back, on = min(offset, start), min(len(content) - offset, len(whole) - start)
    one, other = content[offset - back : offset + on], np.frombuffer(whole, np.uint8)[start - back : start + on]
    unlike = np.flatnonzero(one != other)
    before, after = unlike[unlike < back], unlike[unlike >= back]
    first, last = before[-1] + 1 if len(before) else 0, after[0] if len(after) else back + on
    return offset - back + int(first), offset - back + int(last)
