"""Clusters of vectors by direction, and the choice of their number."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.metrics import silhouette_score
from torch import Tensor

ClusterMethod = Literal["kmeans", "spectral"]


@dataclass(frozen=True, eq=False)
class Clusters:
    """A clustering.

    labels: the cluster of each vector.
    silhouettes: the mean silhouette, from -1 to 1, of each number of clusters that was tried.
    """

    labels: Int[Tensor, " vectors"]
    silhouettes: dict[int, float] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.labels.unique())

    def __repr__(self) -> str:
        tried = ", ".join(f"{n}: {value:.2f}" for n, value in self.silhouettes.items())
        return f"Clusters({self.n} clusters of {len(self.labels)} vectors; silhouettes {tried or 'none'})"


def choose_clusters(
    vectors: Float[Tensor, "vectors d"],
    candidates: Iterable[int] = range(2, 25),
    seed: int = 0,
    method: ClusterMethod = "kmeans",
) -> Clusters:
    """Cluster vectors by direction, into the number of clusters with the greatest mean silhouette.

    Of equally good numbers the first wins. A silhouette is defined for n clusters with 2 <= n < number of different
    vectors; other candidates are left out. If none is left, all vectors are one cluster.

    Source: Rousseeuw (1987), as in scikit-learn.
    """
    unit = _directions(vectors)
    different = len(unit.unique(dim=0))
    found = {n: cluster(vectors, n, method, seed) for n in candidates if 2 <= n < different}
    silhouettes = {n: float(silhouette_score(unit.numpy(), labels.numpy())) for n, labels in found.items()}
    if not found:
        return Clusters(torch.zeros(len(vectors), dtype=torch.long))
    return Clusters(found[max(silhouettes, key=silhouettes.__getitem__)], silhouettes)


def cluster(
    vectors: Float[Tensor, "vectors d"], n: int, method: ClusterMethod = "kmeans", seed: int = 0
) -> Int[Tensor, " vectors"]:
    """Labels of `n` clusters of vectors by direction; fewer if there are fewer different directions.

    "kmeans" is Lloyd's algorithm on unit vectors. "spectral" cuts the graph with edge weights `exp(cos)`. All weights
    are positive, so the graph is always connected. Its memory grows with the square of the number of vectors.

    Raises:
        ValueError: an unknown method, n less than 1, or a vector with a number that is not finite.
    """
    check_method(method)
    check_count("n", n)
    unit = _directions(vectors)
    different, own_cluster = unit.unique(dim=0, return_inverse=True)
    if n == 1 or n >= len(different):
        return own_cluster if n > 1 else torch.zeros_like(own_cluster)
    if method == "spectral":
        model, data = SpectralClustering(n, affinity="precomputed", random_state=seed), (unit @ unit.T).exp()
    else:
        model, data = KMeans(n, n_init=10, random_state=seed), unit
    return torch.from_numpy(model.fit_predict(data.numpy())).long()


def unit_vectors(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Vectors scaled to length one; a zero vector stays zero. Raises ValueError if a number is not finite."""
    faulty = torch.nonzero(~vectors.isfinite().all(1))
    if len(faulty):
        raise ValueError(f"vector {int(faulty[0])} has a number that is not finite: leave it out before comparing.")
    return torch.nn.functional.normalize(vectors, dim=1)


def _directions(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Unit vectors for scikit-learn, rounded: multiples of one vector become the same point."""
    return unit_vectors(vectors.detach().cpu().double()).round(decimals=6)


def check_count(name: str, count: int) -> None:
    """Raise ValueError for a count below one."""
    if count < 1:
        raise ValueError(f"{name}={count} is too few: give 1 or more.")


def check_method(method: str) -> None:
    """Raise ValueError for a method that is not one of `ClusterMethod`."""
    if method not in ("kmeans", "spectral"):
        raise ValueError(f"there is no clustering method {method!r}: give 'kmeans' or 'spectral'.")
