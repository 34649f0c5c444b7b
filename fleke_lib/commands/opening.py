"""What several commands are given: a registry's file, the clients' secret, keys and a policy, each checked at once."""

import argparse
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.retrieval.named import policy_named
from fleke_lib.federation.retrieval.policies import Policy
from fleke_lib.federation.sealing.store import SealedStore, keys_of
from fleke_lib.model import shipped
from fleke_lib.storage.files import user_path


def add_registry(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The argument that names the registry's file."""
    parser.add_argument("--registry", type=user_path, required=required, metavar="FILE", help="the registry's file")


def add_client(parser: argparse.ArgumentParser) -> None:
    """The arguments of a command that works as a client with its own facts."""
    add_registry(parser)
    parser.add_argument("--client", required=True, metavar="NAME", help="the client's pseudonym")
    parser.add_argument("--facts", required=True, metavar="FILE", help="its facts: a JSON file that load_facts reads")
    parser.add_argument(
        "--secret", type=user_path, required=True, metavar="FILE", help="the file with the clients' common secret"
    )
    parser.add_argument(
        "--model", default=shipped.NAME, metavar="NAME", help=f"a hub name or a folder ({shipped.NAME})"
    )


def policy_of(text: str) -> Policy:
    """A policy by its name. Raises argparse.ArgumentTypeError for another name."""
    try:
        return policy_named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(error) from None


def there(path: Path) -> Path:
    """A registry's file that exists; opening one that does not would make it. Raises ValueError if it does not."""
    if not path.is_file():
        raise ValueError(f"there is no registry {path}: give the file that `publish` or a server has written.")
    return path


def opened(path: Path, rules: Rules | None = None) -> Registry | SealedStore:
    """The registry, or the store of sealed packets, in a file that exists."""
    return SealedStore(path, rules) if keys_of(there(path)).exists() else Registry(path, rules)


def check_plain(path: Path) -> Path:
    """The path again. Raises ValueError if the packets in this file are sealed."""
    if keys_of(path).exists():
        raise ValueError(f"{path} holds sealed packets, which only their group's nodes read: run a node instead.")
    return path


def private_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 private key in PEM, without a passphrase. Raises ValueError if the file is not one."""
    make = f"openssl genpkey -algorithm ed25519 -out {path}"
    return _key(path, lambda data: load_pem_private_key(data, None), Ed25519PrivateKey, "a private", make)


def public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key in PEM. Raises ValueError if the file is not one."""
    return _key(path, load_pem_public_key, Ed25519PublicKey, "a public", "openssl pkey -in KEY -pubout")


def _key(path, load, kind, which, make):
    try:
        key = load(path.read_bytes())
    except (TypeError, UnsupportedAlgorithm, ValueError):
        key = None
    if not isinstance(key, kind):
        raise ValueError(f"{path} is not {which} Ed25519 key in PEM without a passphrase: make one with `{make}`.")
    return key
