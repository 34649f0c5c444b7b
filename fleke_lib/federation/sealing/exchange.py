"""The blind server: handlers for nine kinds of message, bytes in and bytes out, without a key.

    put     a sealed packet and its wrapped keys     -> its id
    since   a number and the asking client           -> the last number, and all that others have published after it
    offers  a slot and the asking client             -> cards and wrapped keys of what others have published in the slot
    find    a keyed tag                              -> cards and wrapped keys of what has it as its answer tag
    get     ids                                      -> the bodies of these sealed packets
    deal    an epoch key, encrypted for one member   -> nothing
    dealt   nothing                                  -> the epoch keys that were dealt to the sender
    withdraw   nothing                               -> nothing; all that the sender has published is erased
    withdrawn  nothing                               -> the requests that are pending: numbers and clients

A client that fetches by `since` shows the server nothing but that it is there. With `offers`, `find` and `get` it shows
which packets it wants, and clients of one topic want the same ones.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from fleke_lib.federation.packets.messages import ID, asked, cut_apart, joined
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.sealing.store import SealedStore


@dataclass(frozen=True)
class BlindServer:
    """The message handlers of one store of sealed packets."""

    store: SealedStore

    def begin(self, slot: int) -> None:
        """Begin a slot: from now on only its packets are taken in. Before the first call those of any slot are."""
        if self.store.rules:
            self.store.rules = replace(self.store.rules, slot=slot)

    def handle(self, kind: str, body: bytes, sender: str = "") -> bytes:
        """The answer to one message.

        Args:
            kind: one of the nine above.
            sender: the pseudonym that the transport has authenticated; an unauthenticated sender, "", can read only.

        Raises:
            ValueError: the server does not know this kind of message, or the store refuses its content.
        """
        handlers: dict[str, Callable[[bytes, str], bytes]] = {
            "put": self._put,
            "since": self._since,
            "offers": self._offers,
            "find": self._find,
            "get": self._get,
            "deal": self._deal,
            "dealt": self._dealt,
            "withdraw": self._withdraw,
            "withdrawn": self._withdrawn,
        }
        if kind not in handlers:
            raise ValueError(f"there is no message {kind!r}: send one of {', '.join(handlers)}.")
        return handlers[kind](body, sender)

    def _put(self, body: bytes, sender: str) -> bytes:
        parts = cut_apart(body)
        if len(parts) != 2:
            raise Refused(f"these {len(body)} bytes are not a sealed packet with its wrapped keys: send both.")
        return bytes.fromhex(self.store.put(*parts, sender))

    def _since(self, body: bytes, _: str) -> bytes:
        last, records = self.store.since(*asked(body, "a number")[:2])
        return joined([str(last).encode(), *(joined(record) for record in records)])

    def _offers(self, body: bytes, _: str) -> bytes:
        slot, asker, _ = asked(body)
        return joined(joined(record) for record in self.store.cards("slot", slot, asker))

    def _find(self, body: bytes, _: str) -> bytes:
        return joined(joined(record) for record in self.store.cards("answer", body.hex()))

    def _get(self, body: bytes, _: str) -> bytes:
        if len(body) % ID:
            raise ValueError(f"these {len(body)} bytes are not ids of {ID} bytes each: send ids from `offers`.")
        return joined(self.store.bodies([body[i : i + ID].hex() for i in range(0, len(body), ID)]))

    def _deal(self, body: bytes, sender: str) -> bytes:
        self.store.put_deal(body, sender)
        return b""

    def _dealt(self, _: bytes, sender: str) -> bytes:
        return joined(self.store.deals(sender))

    def _withdraw(self, _: bytes, sender: str) -> bytes:
        if not sender:
            raise Refused("a withdrawal came from nobody: only who has published a packet can withdraw it.")
        self.store.withdraw(client=sender)
        return b""

    def _withdrawn(self, _: bytes, __: str) -> bytes:
        return json.dumps([[request.number, request.client] for request in self.store.pending()]).encode()
