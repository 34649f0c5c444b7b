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

This server reads all packets. One that cannot is in `federation.sealing`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load, save

from fleke_lib.federation.packets.messages import ID, LENGTH, Line, Offers, asked, cut_apart, joined
from fleke_lib.federation.registry.registry import Registry

PAGE = 4096  # offers in one answer, 9.5 MB on the default model
TOGETHER = 256  # packets in one answer, 9.5 MB on the default model


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
        slot, asker, after = asked(body)
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
        return joined(self.registry.get(ids))


class Channel(Line):
    """One client's connection to a server that reads packets; each method is one kind of message."""

    def put(self, data: bytes) -> str:
        return self.call("put", data).hex()

    def find(self, tag: str) -> bytes | None:
        """A packet with this answer tag, or None."""
        return self.call("find", bytes.fromhex(tag)) or None

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
        parts = [ids[i : i + TOGETHER] for i in range(0, len(ids), TOGETHER)]
        return [data for part in parts for data in cut_apart(self.call("get", b"".join(map(bytes.fromhex, part))))]

    def bytes_of(self, id: str, data: bytes) -> dict[str, int]:
        """The bytes sent and received for one packet that `get` has returned."""
        return {"sent": ID, "received": len(data) + LENGTH}

    def refuse(self, id: str, error: ValueError) -> str:
        """A packet from the server was refused. The server has checked it before: it is not to be trusted any more."""
        raise error

    def _page(self, slot: int, *after: str) -> Offers:
        tensors = load(self.call("offers", json.dumps([slot, self.client, *after]).encode()))
        ids = tuple(bytes(row).hex() for row in tensors["ids"].tolist())
        return Offers(ids, tensors["z"].float(), tensors["h"].float())
