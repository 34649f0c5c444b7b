"""Packets, the vectors and keyed tags that organisations exchange: format, compression, cost and conflicts."""

from fleke_lib.federation.packets import conflicts
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.cost import costs
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.federation.packets.tags import Tags

__all__ = ["Compression", "Packet", "Tags", "conflicts", "costs", "pack"]
