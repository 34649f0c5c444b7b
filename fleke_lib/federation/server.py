"""The server: handlers for four kinds of message, bytes in and bytes out, without a model.

    put     a packet                                 -> its id
    find    a keyed tag                              -> a packet that has it as its answer tag, or nothing
    offers  a slot and the asking client             -> ids, z and h of what others have published in the slot
    get     ids                                      -> these packets

All messages between a client and the server pass through a `Channel`, which counts their bytes and can show them to an
audit. Each message carries its sender. In one process the channel names it. Between machines the transport must
authenticate it (TLS, a SuperNode's key), because a client that can send under another name can undo a withdrawal.

This server reads all packets. One that cannot is in `federation.sealing`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load, save

from fleke_lib.federation.packets.messages import ID, LENGTH, Line, Offers, asked, cut_apart, joined
from fleke_lib.federation.registry.registry import Registry


@dataclass(frozen=True)
class Server:
    """The message handlers of one registry."""

    registry: Registry

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
        slot, asker = asked(body)
        found = self.registry.vectors(slot=slot, not_client=asker)
        ids = torch.tensor([list(bytes.fromhex(name)) for name in found.ids], dtype=torch.uint8).reshape(-1, ID)
        return save({"ids": ids, "z": found.z.half(), "h": found.h.half()})

    def _get(self, body: bytes, _: str) -> bytes:
        if len(body) % ID:
            raise ValueError(f"these {len(body)} bytes are not ids of {ID} bytes each: send ids from `offers`.")
        packets = self.registry.get([body[i : i + ID].hex() for i in range(0, len(body), ID)])
        return joined(packets)


class Channel(Line):
    """One client's connection to a server that reads packets; each method is one kind of message."""

    def put(self, data: bytes) -> str:
        return self.call("put", data).hex()

    def find(self, tag: str) -> bytes | None:
        """A packet with this answer tag, or None."""
        return self.call("find", bytes.fromhex(tag)) or None

    def offers(self, slot: int) -> Offers:
        """What other clients have published in this slot."""
        tensors = load(self.call("offers", json.dumps([slot, self.client]).encode()))
        ids = tuple(bytes(row).hex() for row in tensors["ids"].tolist())
        return Offers(ids, tensors["z"].float(), tensors["h"].float())

    def get(self, ids: Sequence[str]) -> list[bytes]:
        return cut_apart(self.call("get", b"".join(map(bytes.fromhex, ids))))

    def bytes_of(self, id: str, data: bytes) -> dict[str, int]:
        """The bytes sent and received for one packet that `get` has returned."""
        return {"sent": ID, "received": len(data) + LENGTH}

    def refuse(self, id: str, error: ValueError) -> None:
        """A packet from the server was refused. The server has checked it before: it is not to be trusted any more."""
        raise error
