"""What a client of the command line has on its disk: files of facts, a secret and keys."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fleke_lib.facts.fact import Fact
from tests.federation.small import facts

SECRET = bytes(range(32))
NAMES = ("bern", "genf", "zug")


def facts_file(path: Path, some: list[Fact]) -> Path:
    """Facts as CounterFact is published."""
    path.write_text(
        json.dumps(
            [
                {
                    "case_id": fact.id,
                    "requested_rewrite": {
                        "subject": fact.subject,
                        "prompt": fact.prompt,
                        "relation_id": fact.relation,
                        "target_new": {"str": fact.target_new},
                        "target_true": {"str": fact.target_true},
                    },
                }
                for fact in some
            ]
        )
    )
    return path


def key_files(folder: Path) -> tuple[Path, Path]:
    """A private and a public Ed25519 key in PEM."""
    key, private, public = Ed25519PrivateKey.generate(), folder / "key.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def set_up(folder: Path) -> Path:
    """A folder with all of this: two facts each for three clients, of one relation each."""
    by_relation: dict[str, list[Fact]] = {}
    for fact in facts():
        by_relation.setdefault(fact.relation, []).append(fact)
    for name, some in zip(NAMES, by_relation.values(), strict=True):
        facts_file(folder / f"{name}.json", some[:2])
    (folder / "secret.bin").write_bytes(SECRET)
    key_files(folder)
    return folder
