"""A group of three members over packets of random numbers, and their store."""

import random

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.sealing.channel import SealedChannel, WholeSlots
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.epochs import Keyring
from fleke_lib.federation.sealing.exchange import BlindServer
from fleke_lib.federation.sealing.keys import KEY, Group, Identity
from fleke_lib.federation.sealing.sealed import PacketKeys, Sealed, seal
from fleke_lib.federation.sealing.store import SealedStore
from tests.federation.sample_packets import RULES

NAMES = ("ada", "bob", "cleo")
DRAWS = Draws(random.Random(0).randbytes)
IDENTITIES = {name: Identity.draw(name, DRAWS) for name in (*NAMES, "mallory")}
MEMBERS = {name: identity.member for name, identity in IDENTITIES.items()}
GROUP = Group({name: MEMBERS[name] for name in NAMES}, dealer="ada")
EPOCH_KEY = DRAWS(KEY, "epoch", "0")
KEYRING = Keyring().plus(0, EPOCH_KEY)


def sealed_of(packet: Packet, epoch: int = 0, keyring: Keyring = KEYRING) -> tuple[Sealed, PacketKeys, bytes]:
    """A packet sealed by its client, its keys, and these wrapped."""
    sealed, keys = seal(packet, IDENTITIES[packet.client], epoch, DRAWS)
    return sealed, keys, keyring.wrap(sealed.card, keys, DRAWS)


def channel_of(store: SealedStore, name: str, fetch: type[SealedChannel] = WholeSlots, **changes) -> SealedChannel:
    """A member's channel, with the epoch's key."""
    given = {"identity": IDENTITIES[name], "group": GROUP, "rules": RULES, "draws": DRAWS, "keyring": KEYRING}
    return fetch(BlindServer(store), name, **given | changes)
