"""Vectors and texts in what a server stores and sees: every byte of files and messages is searched.

The search covers the facts' texts, and every vector of a packet: as it is packed, in the packet's precision, and what
this decodes to in float32 and in float16. Vectors are cut into pieces of 32 bytes, and a piece is found at any offset.
Texts are searched in UTF-8, UTF-16 and as JSON escapes them. All of this is also found where bytes are written in
hexadecimal or base64 digits. Tags and ids are not searched for: they stand in the head of a sealed packet as well.

Not found are numbers that were written as decimal text, rounded in another way, compressed, encrypted or transformed.
"""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fleke_lib.facts.fact import Fact
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.storage.files import user_path
from fleke_lib.storage.pieces import content_of, cut, files_in, hits
from fleke_lib.unlearn.edits.traces import DIFFERENT, wholes

SHORTEST = 6  # characters of a text; shorter ones can be somewhere by chance
APART = bytes(64)  # between contents that are searched together
HEXADECIMAL, BASE64 = re.compile(rb"[0-9a-fA-F]{12,}"), re.compile(rb"[A-Za-z0-9+/_-]{8,}")


@dataclass(frozen=True)
class Exposed:
    """What was found.

    vectors: by packet id, the parts of which a piece was found. texts: those that were found.
    size: bytes searched. pieces: how many pieces of vectors were searched for.
    """

    vectors: dict[str, tuple[str, ...]]
    texts: tuple[str, ...]
    size: int = field(repr=False)
    pieces: int = field(repr=False)

    def __bool__(self) -> bool:
        return bool(self.vectors or self.texts)


def exposed(
    packets: Sequence[Packet],
    facts: Sequence[Fact],
    places: Sequence[str | Path] = (),
    messages: Sequence[bytes] = (),
) -> Exposed:
    """Search files and messages for the vectors of packets and the texts of facts.

    Args:
        places: files, or folders whose files are all searched.
        messages: what crossed the network, each as it was sent.

    Raises:
        ValueError: there is nothing to search, or something is not an ordinary file.
        OSError: a file cannot be read; files are never skipped.
    """
    contents = [
        APART.join(messages),
        *(bytes(content_of(file)) for place in places for file in files_in(user_path(place))),
    ]
    if not any(contents):
        raise ValueError("there is no byte to search: give the server's folder, or the messages of a run.")
    pieces: dict[bytes, list[tuple[str, str]]] = {}
    for packet in packets:
        for part, whole in _forms(packet):
            for _, piece in cut(whole, DIFFERENT):
                pieces.setdefault(piece, []).append((packet.id, part))
    wanted = {text: _written(text) for text in _texts(facts)}
    vectors: dict[str, set[str]] = {}
    texts = set()
    for content in contents:
        for searched in (content, _decoded(content)):
            for _, piece in hits(pieces, np.frombuffer(searched, np.uint8)):
                for id, part in pieces[piece]:
                    vectors.setdefault(id, set()).add(part)
            texts |= {text for text, forms in wanted.items() if any(form in searched for form in forms)}
    parts = {id: tuple(sorted(found)) for id, found in vectors.items()}
    return Exposed(parts, tuple(sorted(texts)), sum(map(len, contents)), len(pieces))


def _forms(packet: Packet) -> Iterator[tuple[str, bytes]]:
    """Every vector of a packet in every form that is searched for, with its name."""
    for name, whole in wholes(packet).items():
        if name.split(",")[0] not in ("id", "question", "answer", "target"):
            yield name, whole
    vectors = {"z": packet.z, "h": packet.h}
    for name in ("shares", "means", "bases", "axes"):
        vectors |= {f"{name} of layer {layer}": vector for layer, vector in getattr(packet, name).items()}
    for name, vector in vectors.items():
        yield f"{name} in float32", vector.float().numpy().tobytes()
        yield f"{name} in float16", vector.half().numpy().tobytes()


def _texts(facts: Sequence[Fact]) -> set[str]:
    given = ((f.subject, f.target_new, f.target_true, f.question, *f.prompt.split("{}")) for f in facts)
    return {text.strip() for some in given for text in some if len(text.strip()) >= SHORTEST}


def _written(text: str) -> set[bytes]:
    """A text as bytes, in every form that is searched for."""
    return {text.encode(), text.encode("utf-16-le"), text.encode("utf-16-be"), json.dumps(text)[1:-1].encode()}


def _decoded(content: bytes) -> bytes:
    """What the hexadecimal and base64 digits in a content say, read from every digit at which a byte can start."""
    found = []
    for run in HEXADECIMAL.findall(content):
        found += [bytes.fromhex(run[k : k + (len(run) - k) // 2 * 2].decode()) for k in range(2)]
    for run in BASE64.findall(content):
        digits = run.translate(bytes.maketrans(b"-_", b"+/"))
        found += [base64.b64decode(digits[k:] + b"A" * (-(len(digits) - k) % 4)) for k in range(4)]
    return APART.join(found)
