"""Keyed tags: they show that two packets concern the same question or answer without revealing which."""

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from pathlib import Path

from fleke_lib.facts.fact import Fact, normal_form

SHORTEST = 16  # bytes of a secret that nobody guesses


@dataclass(frozen=True)
class Tags:
    """Keyed tags, HMAC-SHA256 with the clients' common secret, which the server does not have.

    Equal tags mean "the same question", "the same answer to it" or "the same target". Without the secret they reveal
    nothing more. What is hashed is a part of the packets' protocol: the texts in Unicode's form NFC, as a JSON list.
    Clients whose systems write "é" as one code point or as two therefore get the same tags.

    A tag shows what its sender says that a packet is about. Every client knows the secret, so a tag does not prove it.

    Raises:
        ValueError: the secret is empty.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.secret:
            raise ValueError("the clients' secret is empty: draw one with secrets.token_bytes(32), and share it.")

    def question(self, fact: Fact) -> str:
        return self._tag("question", fact.subject, fact.prompt)

    def answer(self, fact: Fact) -> str:
        return self._tag("answer", fact.subject, fact.prompt, fact.target_new)

    def target(self, fact: Fact) -> str:
        return self._tag("target", fact.target_new)

    def _tag(self, *parts: str) -> str:
        text = json.dumps([normal_form(part) for part in parts])
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()


def load_secret(path: Path) -> bytes:
    """The clients' secret, which is the whole content of a file. Raises ValueError if it is too short."""
    secret = path.read_bytes()
    if len(secret) < SHORTEST:
        raise ValueError(
            f"{path} has {len(secret)} bytes and a secret needs {SHORTEST} or more: make one, and share it among the "
            f"clients alone, with `head -c 32 /dev/urandom > {path}`."
        )
    return secret
