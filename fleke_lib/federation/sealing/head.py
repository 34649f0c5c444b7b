"""The head of a sealed packet: what the server and everybody else can read of it.

It has the two keyed tags, the pseudonym, the slot, the model's fingerprint and the group's epoch. The tag of the target
stays inside the packet: warm starts compare it after the packet has been opened. The encoding is canonical: JSON with
sorted keys, no blanks, ASCII only.
"""

import json
import re
from dataclasses import asdict, dataclass

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.admission import LAST_SLOT, Refused

FORMAT = "fleke-sealed-1"
LONGEST = 1024  # bytes of a head; 64 characters of a pseudonym take up to 768 in ASCII


@dataclass(frozen=True)
class Head:
    """The readable part of a sealed packet; its bytes are associated data of both ciphertexts.

    epoch: number of the group's key under which the packet's keys are wrapped.
    """

    fingerprint: str
    client: str
    slot: int
    epoch: int
    question: str
    answer: str

    @classmethod
    def of(cls, packet: Packet, epoch: int) -> "Head":
        return cls(packet.fingerprint, packet.client, packet.slot, epoch, packet.question, packet.answer)

    @property
    def data(self) -> bytes:
        return json.dumps(asdict(self) | {"format": FORMAT}, sort_keys=True, separators=(",", ":")).encode("ascii")

    @classmethod
    def read(cls, data: bytes) -> "Head":
        """Read a head from its bytes.

        Raises:
            Refused: these bytes are not a head in its one encoding.
        """
        try:
            fields = json.loads(data) if len(data) <= LONGEST else {}
            known = type(fields) is dict and fields.pop("format", None) == FORMAT
            head = cls(**fields) if known else None
        except (RecursionError, TypeError, ValueError):
            head = None
        if head is None or not head._valid() or head.data != data:
            raise Refused(f"these {len(data)} bytes are not the head of a sealed packet: send what `seal` made.")
        return head

    def differs(self, packet: Packet) -> str:
        """The names of the fields in which a packet differs from this head, or an empty string."""
        inside = Head.of(packet, self.epoch)
        return ", ".join(name for name, value in asdict(self).items() if getattr(inside, name) != value)

    def _valid(self) -> bool:
        texts, numbers, tags = (self.fingerprint, self.client), (self.slot, self.epoch), (self.question, self.answer)
        return (
            all(type(text) is str and 0 < len(text) <= 64 and text.isprintable() for text in texts)
            and all(type(number) is int and 0 <= number <= LAST_SLOT for number in numbers)
            and all(type(tag) is str and bool(re.fullmatch("[0-9a-f]{64}", tag)) for tag in tags)
        )
