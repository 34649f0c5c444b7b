"""Pieces of bytes, searched at every offset of files or messages."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8, UInt64

PIECE = 32  # bytes
BLOCK = 1 << 24  # bytes of a content that are searched at once
ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)  # one for each word of a piece

Bytes = UInt8[np.ndarray, " bytes"]


def hits(pieces: Collection[bytes], content: Bytes) -> Iterator[tuple[int, bytes]]:
    """Every occurrence of a piece with its offset, in order of the offsets.

    Args:
        pieces: each of `PIECE` bytes; a set or a dictionary.
    """
    hashes = _sorted(pieces)
    for begin in range(0, len(content) - PIECE + 1, BLOCK):
        block = np.ascontiguousarray(content[begin : begin + BLOCK + PIECE - 1])
        for offset in _candidates(block, hashes):
            piece = block[offset : offset + PIECE].tobytes()
            if piece in pieces:
                yield begin + int(offset), piece


def cut(whole: bytes, different: int) -> Iterator[tuple[int, bytes]]:
    """The pieces of a whole, each with its offset; the last one overlaps the one before it.

    Args:
        different: pieces with fewer different bytes than this are left out.
    """
    ends = range(PIECE, len(whole) + 1, PIECE)
    for end in {*ends, len(whole)} if ends else ():
        piece = whole[end - PIECE : end]
        if len(set(piece)) >= different:
            yield end - PIECE, piece


def content_of(file: Path) -> Bytes:
    """A file's bytes, which are read where they are searched."""
    return np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)


def files_in(place: Path) -> Iterator[Path]:
    """A file, or all files under a folder. Links to files are read, links to folders are not followed.

    Raises:
        ValueError: something is not an ordinary file.
        OSError: a file or a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    if not place.is_dir():
        place.stat()  # raises if it does not exist
        yield place
        return
    for folder, _, names in os.walk(place, onerror=fail):
        for name in names:
            file = Path(folder, name)
            file.stat()
            if not file.is_file():
                raise ValueError(f"{file} is not an ordinary file and cannot be searched: remove it, and search again.")
            yield file


def _sorted(pieces: Collection[bytes]) -> UInt64[np.ndarray, " pieces"]:
    joined = np.frombuffer(b"".join(pieces), np.uint64).reshape(-1, PIECE // 8)
    return np.sort(_hash([*joined.T])) if len(joined) else np.empty(0, np.uint64)


def _candidates(block: Bytes, hashes: UInt64[np.ndarray, " pieces"]) -> Int[np.ndarray, " places"]:
    """Offsets, in order, whose 32 bytes have the hash of a piece; searched for each remainder modulo 8 in turn."""
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
    """A hash of four words, from products that overflow; equal hashes are compared byte by byte afterwards."""
    return sum((word * np.uint64(odd) for word, odd in zip(words, ODD, strict=True)), np.zeros_like(words[0]))
