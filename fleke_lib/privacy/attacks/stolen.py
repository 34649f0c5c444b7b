"""What a thief reads from a copy of a sealed store.

Threat model.

- Attacker: has a copy of the file of sealed packets, such as a backup, and a file of wrapped keys, of the same day or
  a later one. It also has the group's key, from a member that helps it or that left without forgetting.
- It has opened nothing before: packets that a member has opened are out of the server's reach in any case.

A packet opens if its wrapped keys are still in the file of keys. A withdrawal destroys these, and the copy of the
packet is then noise (`fleke_lib.federation.sealing.store`).
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.sealing.epochs import Keyring
from fleke_lib.federation.sealing.keys import Group
from fleke_lib.federation.sealing.sealed import Card, Sealed, open_body
from fleke_lib.federation.sealing.store import SealedStore, keys_of


def opened(packets: Path, keys: Path, keyring: Keyring, group: Group) -> list[Packet]:
    """The packets of a copied store that open with a file of wrapped keys and the group's keys.

    Args:
        packets, keys: the files; they are copied and not changed.
        keyring: the epoch keys that the thief has.
        group: the members, whose signatures are public.
    """
    found = []
    with TemporaryDirectory() as folder:
        copy = Path(folder, "copy.db")
        shutil.copy(packets, copy)
        shutil.copy(keys, keys_of(copy))
        with SealedStore(copy) as store:
            _, records = store.since(0, "")
    for card, body, wrapped in records:
        sealed = Sealed(Card.read(card), body)
        member = group.member(sealed.card.head.client)
        try:
            own = keyring.unwrap(sealed.card, wrapped)
            found.append(open_body(sealed, own, member))
        except Refused:
            continue
    return found
