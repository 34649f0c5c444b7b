"""Which published vectors a client adopts.

A client compares what it is offered with what it edits itself, and it has vectors only. Two choices are made, and they
are made apart: the representation (which vector is compared, see `representations`) and the policy (which comparisons
are good enough).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fleke_lib.federation.retrieval.clusters import ClusterMethod, check_count, check_method, choose_clusters, cluster
from fleke_lib.federation.retrieval.representations import check_dimensions, cosines


class Policy(Protocol):
    """A rule that says which of the offered vectors a client adopts, given its own."""

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]: ...


@dataclass(frozen=True)
class Majority:
    """Adopt what is near to at least a `share` of the client's own: `|{i : cos(own_i, x) > tau}| / n >= share`.

    Source: the published rule of FedEdit, with tau 0.4 and at least half.
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
    """Adopt what is near to one of the client's own: `max_i cos(own_i, x) > tau`."""

    tau: float

    def __post_init__(self) -> None:
        _check_tau(self.tau)

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        return (cosines(own, offered) > self.tau).any(0)


@dataclass(frozen=True)
class TopK:
    """Adopt, for each of the client's own, the `k` nearest that are offered; of equally near ones the earlier."""

    k: int

    def __post_init__(self) -> None:
        check_count("k", self.k)

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        nearest = cosines(own, offered).argsort(dim=1, descending=True, stable=True)[:, : self.k]
        return _nothing(offered).index_fill(0, nearest.flatten(), True)


@dataclass(frozen=True)
class Cluster:
    """Adopt what falls into the client's clusters, when own and offered vectors are clustered together.

    A cluster is the client's where its own have at least a fair share of it, `own in it / all in it >= n / (n + m)`.
    One own vector in it would be too little a claim: with two clusters that hold everything, it claims both, and the
    client adopts whatever it is offered. The fair share is what chance would give, so that a cluster counts only where
    the client is at least as much at home as among all vectors. It has no number to tune, it means the same for
    clients of any size, and there is always such a cluster.

    Args:
        n: number of clusters, as far as there are as many different vectors; chosen by silhouette when left out.
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
        at_home = mine * len(seen) >= len(own) * everywhere  # the fair share, in whole numbers
        return at_home[labels[len(own) :]].to(offered.device)


@dataclass(frozen=True)
class Everyone:
    """Adopt all that is offered."""

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        return ~_nothing(offered)


@dataclass(frozen=True)
class Nobody:
    """Adopt nothing."""

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        return _nothing(offered)


@dataclass(frozen=True)
class Random:
    """Adopt `n` of those that are offered, whichever: what a rule must beat that adopts as many.

    The same seed and number of offers give the same places; give each client a seed of its own.
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
