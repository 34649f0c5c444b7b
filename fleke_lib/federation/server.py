"""The server: handlers for four kinds of message, bytes in and bytes out, without a model.

    put     a packet of the present slot             -> its id
    find    a keyed tag                              -> a packet that has it as its answer tag, or nothing
    offers  a slot, the asking client, a last id     -> ids, z and h of what others have published in the slot
    get     ids                                      -> these packets

The server says which slot is the present one. A packet that names another one is refused: a client could otherwise date
its packet back, to be found first, or forward, to be the newest. Answers are bounded: `offers` gives a page at a time,
and `get` at most `TOGETHER` packets, each once. The channel asks for the next page.

All messages between a client and the server pass through a `Channel`, which counts their bytes and can show them to an
audit. Each message carries its sender. In one process the channel names it. Between machines the transport must
authenticate it (TLS, a SuperNode's key), because a client that can send under another name can undo a withdrawal.
"""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from fleke_lib.federation.registry.registry import Registry

ID = 32  # bytes of an id or a tag
LENGTH = 4  # bytes of the length in front of each packet of an answer
PAGE = 4096  # offers in one answer, 9.5 MB on the default model
TOGETHER = 256  # packets in one answer, 9.5 MB on the default model


@dataclass(frozen=True, eq=False)
class Offers:
    """What other clients have published in one slot, in the order of the ids; z and h arrive rounded to 16 bits."""

    ids: tuple[str, ...]
    z: Float[Tensor, "offers d_model"]
    h: Float[Tensor, "offers d_model"]


@dataclass(frozen=True)
class Server:
    """The message handlers of one registry."""

    registry: Registry

    def begin(self, slot: int) -> None:
        """Begin a slot: from now on only its packets are taken in. Before the first call those of any slot are."""
        if self.registry.rules:
            self.registry.rules = replace(self.registry.rules, slot=slot)

    def handle(self, kind: str, body: bytes, sender: str = "") -> bytes:
        """The answer to one message.

        Args:
            kind: "put", "find", "offers" or "get".
            sender: the pseudonym that the transport has authenticated; an unauthenticated sender, "", can read only.

        Raises:
            ValueError: the server does not know this kind of message, or the registry refuses its content.
        """
        handlers: dict[str, Callable[[bytes, str], bytes]] = {
            "put": self._put, "find": self._find, "offers": self._offers, "get": self._get
        }  # fmt: skip
        if kind not in handlers:
            raise ValueError(f"there is no message {kind!r}: send one of {', '.join(handlers)}.")
        return handlers[kind](body, sender)

    def _put(self, body: bytes, sender: str) -> bytes:
        return bytes.fromhex(self.registry.put(body, sender))

    def _find(self, body: bytes, _: str) -> bytes:
        found = self.registry.find(body.hex(), "answer")
        return self.registry.get([found[0]])[0] if found else b""

    def _offers(self, body: bytes, _: str) -> bytes:
        slot, asker, after = _asked(body)
        found = self.registry.vectors(PAGE, slot=slot, not_client=asker, after=after or None)
        ids = torch.tensor([list(bytes.fromhex(name)) for name in found.ids], dtype=torch.uint8).reshape(-1, ID)
        return save({"ids": ids, "z": found.z.half(), "h": found.h.half()})

    def _get(self, body: bytes, _: str) -> bytes:
        if len(body) % ID:
            raise ValueError(f"these {len(body)} bytes are not ids of {ID} bytes each: send ids from `offers`.")
        ids = [body[i : i + ID].hex() for i in range(0, len(body), ID)]
        if len(ids) > TOGETHER or len(set(ids)) < len(ids):
            given = f"{len(ids)} ids are asked for, {len(set(ids))} of them different"
            raise ValueError(f"{given}: send {TOGETHER} at most, and each once.")
        packets = self.registry.get(ids)
        return b"".join(struct.pack("<I", len(data)) + data for data in packets)


def _asked(body: bytes) -> tuple[int, str, str]:
    """The slot, the asking client and the last id of the page before in a message; "" for the first page."""
    try:
        slot, asker, *rest = json.loads(body)
        (after,) = rest or [""]
    except (RecursionError, TypeError, ValueError):
        slot, asker, after = None, None, None
    if type(slot) is not int or not 0 <= slot < 2**31 or type(asker) is not str or type(after) is not str:
        raise ValueError(f"these {len(body)} bytes do not name a slot and a client: send them as a JSON list.")
    return slot, asker, after


@dataclass
class Channel:
    """One client's connection to the server.

    tap: called with every message: kind, bytes sent, bytes received.
    sent, received: bytes so far.
    """

    server: Server
    client: str
    tap: Callable[[str, bytes, bytes], None] = lambda kind, sent, received: None
    sent: int = field(default=0, init=False)
    received: int = field(default=0, init=False)

    def put(self, data: bytes) -> str:
        return self._call("put", data).hex()

    def find(self, tag: str) -> bytes | None:
        """A packet with this answer tag, or None."""
        return self._call("find", bytes.fromhex(tag)) or None

    def offers(self, slot: int) -> Offers:
        """What other clients have published in this slot."""
        pages = [self._page(slot)]
        while len(pages[-1].ids) == PAGE:
            pages.append(self._page(slot, pages[-1].ids[-1]))
        pages = pages[:1] + [page for page in pages[1:] if page.ids]  # vectors of no packet have no width
        ids = tuple(id for page in pages for id in page.ids)
        return Offers(ids, torch.cat([page.z for page in pages]), torch.cat([page.h for page in pages]))

    def get(self, ids: Sequence[str]) -> list[bytes]:
        """The packets with these ids, in their order."""
        return [data for i in range(0, len(ids), TOGETHER) for data in self._some(ids[i : i + TOGETHER])]

    def _page(self, slot: int, *after: str) -> Offers:
        tensors = load(self._call("offers", json.dumps([slot, self.client, *after]).encode()))
        ids = tuple(bytes(row).hex() for row in tensors["ids"].tolist())
        return Offers(ids, tensors["z"].float(), tensors["h"].float())

    def _some(self, ids: Sequence[str]) -> list[bytes]:
        answer, packets = self._call("get", b"".join(map(bytes.fromhex, ids))), []
        start = 0
        while start < len(answer):  # by position: cutting off the rest of the answer would copy it for every packet
            (length,) = struct.unpack_from("<I", answer, start)
            start += LENGTH + length
            packets.append(answer[start - length : start])
        return packets

    def _call(self, kind: str, body: bytes) -> bytes:
        answer = self.server.handle(kind, body, self.client)
        self.sent, self.received = self.sent + len(body), self.received + len(answer)
        self.tap(kind, body, answer)
        return answer
