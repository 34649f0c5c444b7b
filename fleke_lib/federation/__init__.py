"""Organisations that edit the same base model and share vectors, never text."""

from fleke_lib.federation import baselines, lora, weights
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.ledger import Event, Ledger
from fleke_lib.federation.packets import Compression, Packet, Tags, conflicts, pack
from fleke_lib.federation.partitioning import Part, partition
from fleke_lib.federation.protection import Plain
from fleke_lib.federation.provider import PreparedFact, StoredProvider, VectorProvider
from fleke_lib.federation.published import PUBLISHED, published_fedit
from fleke_lib.federation.registry import Refused, Registry, Rules
from fleke_lib.federation.relevance import found_by
from fleke_lib.federation.retrieval import Cluster, Everyone, Majority, Nobody, Policy, Random, Threshold, TopK
from fleke_lib.federation.rounds import Run, RunConfig, run_fedit
from fleke_lib.federation.sealing import Sealing
from fleke_lib.federation.server import Channel, Server
from fleke_lib.federation.summed import Scales
from fleke_lib.federation.summing import Summing, total

__all__ = [
    "PUBLISHED",
    "Channel",
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
    "Plain",
    "Policy",
    "PreparedFact",
    "Random",
    "Refused",
    "Registry",
    "Rules",
    "Run",
    "RunConfig",
    "Scales",
    "Sealing",
    "Server",
    "StoredProvider",
    "Summing",
    "Tags",
    "Threshold",
    "TopK",
    "VectorProvider",
    "baselines",
    "conflicts",
    "found_by",
    "lora",
    "pack",
    "partition",
    "published_fedit",
    "run_fedit",
    "total",
    "weights",
]
