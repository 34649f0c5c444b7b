"""Which published vectors a client adopts.

A client compares what it is offered with what it edits itself, and it has vectors only. Two choices are made, and they
are made apart: the representation (which vector is compared) and the policy (which comparisons are good enough).

On raw MKVs of a small model nearly every pair has a cosine over 0.4, related or not, because all of them carry the
same large mean. A rule with such a threshold then adopts everything. The residual and the centred MKV lack that mean.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fleke_lib.federation.clusters import Method, check_count, check_method, choose_clusters, cluster, unit_vectors


def represent(
    kind: Literal["raw", "residual", "key", "centred"],
    z: Float[Tensor, "facts d_model"],
    h: Float[Tensor, "facts d_model"],
    keys: Float[Tensor, "facts d_mlp"] | None = None,
) -> Float[Tensor, "facts d"]:
    """The vectors to compare, of all facts that a client can see at that time: its own and those it is offered.

        raw: z      residual: z - h      key: k      centred: z - mean of all z here

    The first three of a fact depend on that fact alone. A centred vector depends on everybody whose vectors are in the
    mean: when one of them withdraws, the vectors of all others move, and what was adopted by them is to be chosen anew.

    Args:
        keys: one key a fact at some layer, the mean over its contexts; needed for "key" only.

    Raises:
        ValueError: an unknown kind, z and h of different shapes, or keys that are missing or of another number.
    """
    if kind not in REPRESENTATIONS:
        raise ValueError(f"there is no representation {kind!r}: give one of {', '.join(REPRESENTATIONS)}.")
    if z.shape != h.shape or z.ndim != 2:
        raise ValueError(f"z is {tuple(z.shape)} and h {tuple(h.shape)}: give both as (facts, d_model).")
    if kind == "key" and (keys is None or len(keys) != len(z)):
        given = "none" if keys is None else len(keys)
        raise ValueError(f"the keys of {len(z)} facts are compared, but {given} were given: give one mean key a fact.")
    return REPRESENTATIONS[kind](z, h, keys)


REPRESENTATIONS: Mapping[str, Callable] = {
    "raw": lambda z, h, keys: z,
    "residual": lambda z, h, keys: z - h,
    "key": lambda z, h, keys: keys,
    "centred": lambda z, h, keys: z - z.mean(0),
}


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
    method: Method = "kmeans"
    seed: int = 0

    def __post_init__(self) -> None:
        check_method(self.method)
        if self.n is not None:
            check_count("n", self.n)

    def choose(self, own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        if not len(own) or not len(offered):
            return _nothing(offered)
        _check_dimensions(own, offered)
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


@dataclass(frozen=True)
class Retrieval:
    """How well a client chose: what it adopted against what was relevant to it.

        precision = both / adopted      recall = both / relevant      f1 = 2 both / (adopted + relevant)

    Where nothing was adopted nothing was adopted wrongly, and precision is 1; where nothing was relevant nothing was
    missed, and recall is 1. So f1 is the harmonic mean of the two everywhere, 0 for one who misses all there was.
    """

    adopted: int
    relevant: int
    both: int
    offered: int

    @property
    def precision(self) -> float:
        return self.both / self.adopted if self.adopted else 1.0

    @property
    def recall(self) -> float:
        return self.both / self.relevant if self.relevant else 1.0

    @property
    def f1(self) -> float:
        total = self.adopted + self.relevant
        return 2 * self.both / total if total else 1.0

    def __repr__(self) -> str:
        return (
            f"Retrieval(adopted {self.adopted} of {self.offered}, {self.both} of the {self.relevant} relevant: "
            f"precision {self.precision:.2f}, recall {self.recall:.2f}, f1 {self.f1:.2f})"
        )


def precision_recall(adopted: Bool[Tensor, " m"], relevant: Bool[Tensor, " m"]) -> Retrieval:
    """Compare what was adopted with what was relevant. Raises ValueError unless both are of one length and of bool."""
    if adopted.shape != relevant.shape or not adopted.dtype == relevant.dtype == torch.bool:
        given = f"{adopted.dtype} {tuple(adopted.shape)} and {relevant.dtype} {tuple(relevant.shape)}"
        raise ValueError(f"adopted and relevant are {given}: give two bool tensors with one entry a vector.")
    both = adopted & relevant
    return Retrieval(int(adopted.sum()), int(relevant.sum()), int(both.sum()), len(adopted))


def cosines(own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """`own_i . offered_j / (|own_i| |offered_j|)` in one matrix product; 0 for a zero vector.

    Raises:
        ValueError: vectors of different dimensions, or with a number that is not finite.
    """
    if not len(own) or not len(offered):
        return offered.new_zeros(len(own), len(offered))
    _check_dimensions(own, offered)
    return unit_vectors(own) @ unit_vectors(offered).T


def _nothing(offered: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
    return torch.zeros(len(offered), dtype=torch.bool, device=offered.device)


def _check_tau(tau: float) -> None:
    if not -1 <= tau <= 1:
        raise ValueError(f"tau={tau} is no cosine: give one from -1 to 1.")


def _check_dimensions(own: Tensor, offered: Tensor) -> None:
    if own.ndim != 2 or offered.ndim != 2 or own.shape[1] != offered.shape[1]:
        raise ValueError(
            f"own vectors are {tuple(own.shape)} and offered ones {tuple(offered.shape)}: give both as rows of one "
            "representation."
        )
