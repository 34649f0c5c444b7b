"""Draw the keys of a new member, and write the public ones to a file for the others.

    identity --name bern --folder keys

bern.identity signs its packets and receives the group's keys, and bern.key is its SuperNode's; both are private and
stay on the member's machine. bern.member has the public keys. Give it to the others in a way that nobody can change on
the road, such as in person: whoever replaces it reads everything.
"""

import argparse
import json

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fleke_lib.federation.flower.settings import save_group, save_identity
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.keys import Group, Identity
from fleke_lib.storage.files import half_made, user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `identity`."""
    parser.add_argument("--name", required=True, metavar="NAME", help="the member's pseudonym")
    parser.add_argument("--folder", type=user_path, required=True, metavar="FOLDER", help="where the keys are written")


def main(arguments: argparse.Namespace) -> int:
    """Draw and write the keys. Raises ValueError if one of the files is there: keys are never written over."""
    name, folder = arguments.name, arguments.folder
    if not (0 < len(name) <= 64 and name.isprintable()) or set(name) & set("/\\"):
        raise ValueError(f"{name!r} is no pseudonym: give 1 to 64 printable characters without slashes.")
    paths = [folder / f"{name}.{kind}" for kind in ("identity", "key", "member")]
    if there := [path for path in paths if path.exists()]:
        raise ValueError(f"{there[0]} exists: keys are not written over; give another folder.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    own, node = Identity.draw(name, Draws()), ec.generate_private_key(ec.SECP384R1())
    save_identity(own, paths[0])
    with half_made(paths[1]) as half:
        half.touch(mode=0o600)
        half.write_bytes(node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = node.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    save_group(Group({name: own.member}, dealer=name), {name: public}, paths[2])
    fingerprint = own.member.signing.hex()[:16]
    print(json.dumps({"member": name, "files": [str(path) for path in paths], "signing key begins": fingerprint}))
    return 0
