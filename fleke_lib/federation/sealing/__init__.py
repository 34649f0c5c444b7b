"""Sealed packets: end-to-end encryption between members, a server that stores what it cannot read, crypto-erasure."""

from fleke_lib.federation.sealing.channel import OnlyChosen, WholeSlots
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.epochs import Deal, Keyring, accept, deal
from fleke_lib.federation.sealing.exchange import BlindServer
from fleke_lib.federation.sealing.keys import Group, Identity, Member
from fleke_lib.federation.sealing.sealed import Sealed, open_body, open_offer, seal
from fleke_lib.federation.sealing.sealing import Sealing
from fleke_lib.federation.sealing.store import SealedStore, keys_of

__all__ = [
    "BlindServer",
    "Deal",
    "Draws",
    "Group",
    "Identity",
    "Keyring",
    "Member",
    "OnlyChosen",
    "Sealed",
    "SealedStore",
    "Sealing",
    "WholeSlots",
    "accept",
    "deal",
    "keys_of",
    "open_body",
    "open_offer",
    "seal",
]
