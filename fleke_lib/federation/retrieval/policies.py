"""Policies: which of the published vectors a client adopts.

A client compares offered vectors with its own, without any text. Two choices are independent: the representation
(which vector of a fact is compared, see `representations`) and the policy (which cosines suffice).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fleke_lib.federation.retrieval.clusters import ClusterMethod, check_count, check_method, choose_clusters, cluster
from fleke_lib.federation.retrieval.representations import check_dimensions, cosines


class Policy(Protocol):
    """A rule that chooses, given a client's own vectors, which of the offered ones it adopts."""

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]: ...


@dataclass(frozen=True)
class Majority:
    """Adopt x if it is near to at least a `share` of the client's own: `|{i : cos(own_i, x) > tau}| / n >= share`.

    Source: the published rule of FedEdit, with tau 0.4 and share 0.5.
    """

    tau: float = 0.4
    share: float = 0.5

    def __post_init__(self) -> None:
        _check_tau(self.tau)
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} is no share of the own vectors: give more than 0 and at most 1.")

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        near = (cosines(own, offered) > self.tau).sum(0).double()
        return near / max(1, len(own)) >= self.share


@dataclass(frozen=True)
class Threshold:
    """Adopt x if it is near to at least one of the client's own: `max_i cos(own_i, x) > tau`."""

    tau: float

    def __post_init__(self) -> None:
        _check_tau(self.tau)

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        return (cosines(own, offered) > self.tau).any(0)


@dataclass(frozen=True)
class TopK:
    """Adopt, for each of the client's own, the `k` nearest offered vectors; of equally near ones the earlier."""

    k: int

    def __post_init__(self) -> None:
        check_count("k", self.k)

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        nearest = cosines(own, offered).argsort(dim=1, descending=True, stable=True)[:, : self.k]
        return _nothing(offered).index_fill(0, nearest.flatten(), True)


@dataclass(frozen=True)
class Cluster:
    """Cluster own and offered vectors together, and adopt the offered ones in the client's clusters.

    A cluster is the client's if its own vectors have at least a fair share of it: `own / all >= n / (n + m)`, where the
    left side counts inside the cluster. A single own vector does not suffice: with two clusters in all, the client
    could claim both and adopt everything. The fair share is the expected share at random. The rule has no parameter to
    tune, has the same meaning for clients of any size, and always gives the client at least one cluster.

    Args:
        n: number of clusters; fewer if there are fewer different directions. By default chosen by silhouette.
        method: "kmeans" or "spectral".
    """

    n: int | None = None
    method: ClusterMethod = "kmeans"
    seed: int = 0

    def __post_init__(self) -> None:
        check_method(self.method)
        if self.n is not None:
            check_count("n", self.n)

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        if not len(own) or not len(offered):
            return _nothing(offered)
        check_dimensions(own, offered)
        seen = torch.cat([own, offered])
        labels = (
            choose_clusters(seen, seed=self.seed, method=self.method).labels
            if self.n is None
            else cluster(seen, self.n, self.method, self.seed)
        )
        everywhere, mine = torch.bincount(labels), torch.bincount(labels[: len(own)], minlength=int(labels.max()) + 1)
        at_home = mine * len(seen) >= len(own) * everywhere  # the fair share, in integers
        return at_home[labels[len(own) :]].to(offered.device)


@dataclass(frozen=True)
class Everyone:
    """Adopt every offered vector."""

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        return ~_nothing(offered)


@dataclass(frozen=True)
class Nobody:
    """Adopt nothing."""

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        return _nothing(offered)


@dataclass(frozen=True)
class Random:
    """Adopt `n` offered vectors at random: the baseline for a policy that adopts equally many.

    The same seed and number of offers give the same positions; give each client its own seed.
    """

    n: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"n={self.n} is no number of vectors: give 0 or more.")

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        order = torch.randperm(len(offered), generator=torch.Generator().manual_seed(self.seed))
        return _nothing(offered).index_fill(0, order[: self.n].to(offered.device), True)


def _nothing(offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
    return torch.zeros(len(offered), dtype=torch.bool, device=offered.device)


def _check_tau(tau: float) -> None:
    if not -1 <= tau <= 1:
        raise ValueError(f"tau={tau} is no cosine: give one from -1 to 1.")
