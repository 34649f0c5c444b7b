"""Organisations that edit the same base model and share vectors, never text."""

from fleke_lib.federation import baselines, weights
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.ledger import Event, Ledger
from fleke_lib.federation.packets import conflicts
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.partitioning import Part, partition
from fleke_lib.federation.provider import VectorProvider
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.retrieval.policies import Cluster, Everyone, Majority, Nobody, Policy, Random, Threshold, TopK
from fleke_lib.federation.rounds import Run, run_fedit

__all__ = [
    "ClientConfig",
    "Cluster",
    "Compression",
    "Event",
    "Everyone",
    "Ledger",
    "Majority",
    "Nobody",
    "Packet",
    "Part",
    "Policy",
    "Random",
    "Refused",
    "Registry",
    "Rules",
    "Run",
    "Tags",
    "Threshold",
    "TopK",
    "VectorProvider",
    "baselines",
    "conflicts",
    "pack",
    "partition",
    "run_fedit",
    "weights",
]
