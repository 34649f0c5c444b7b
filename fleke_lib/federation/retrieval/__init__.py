"""Which packets are relevant to a client: representations, policies, clusters, and how well they separate relations."""

from fleke_lib.federation.retrieval.clusters import choose_clusters, cluster, unit_vectors
from fleke_lib.federation.retrieval.policies import Cluster, Everyone, Majority, Nobody, Policy, Random, Threshold, TopK
from fleke_lib.federation.retrieval.precision import Retrieval, precision_recall
from fleke_lib.federation.retrieval.representations import REPRESENTATIONS, cosines, represent

__all__ = [
    "REPRESENTATIONS",
    "Cluster",
    "Everyone",
    "Majority",
    "Nobody",
    "Policy",
    "Random",
    "Retrieval",
    "Threshold",
    "TopK",
    "choose_clusters",
    "cluster",
    "cosines",
    "precision_recall",
    "represent",
    "unit_vectors",
]
