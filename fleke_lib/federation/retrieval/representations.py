"""Which vector of a fact retrieval compares, and how two vectors are compared.

In a small model nearly every pair of raw MKVs has a cosine over 0.4, related or not, because all MKVs contain the same
large mean. A policy with such a threshold adopts everything. The residual and the centred MKV do not contain that mean.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from fleke_lib.federation.retrieval.clusters import unit_vectors


def represent(
    kind: Literal["raw", "residual", "key", "centred"],
    z: Float[Tensor, "facts d_model"],
    h: Float[Tensor, "facts d_model"],
    keys: Float[Tensor, "facts d_mlp"] | None = None,
) -> Float[Tensor, "facts d"]:
    """The vectors to compare, for all facts that a client sees at that time: its own and the offered ones.

        raw: z      residual: z - h      key: k      centred: z - mean of all z given

    The first three depend on the fact alone. A centred vector depends on all clients whose vectors are in the mean. If
    one of them withdraws, the vectors of all others change, and adoptions based on them must be chosen again.

    Args:
        keys: one key per fact at some layer, the mean over its contexts; needed for "key" only.

    Raises:
        ValueError: an unknown kind, z and h of different shapes, or not one key for each fact.
    """
    if kind not in REPRESENTATIONS:
        raise ValueError(f"there is no representation {kind!r}: give one of {', '.join(REPRESENTATIONS)}.")
    if z.shape != h.shape or z.ndim != 2:
        raise ValueError(f"z is {tuple(z.shape)} and h {tuple(h.shape)}: give both as (facts, d_model).")
    if kind == "key" and (keys is None or len(keys) != len(z)):
        given = "none" if keys is None else len(keys)
        raise ValueError(f"the keys of {len(z)} facts are compared, but {given} were given: give one mean key a fact.")
    return REPRESENTATIONS[kind](z, h, keys)


def cosines(own: Float[Tensor, "n d"], offered: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """All cosines `own_i . offered_j / (|own_i| |offered_j|)` in one matrix product; 0 for a zero vector.

    Raises:
        ValueError: vectors of different dimensions, or with a number that is not finite.
    """
    if not len(own) or not len(offered):
        return offered.new_zeros(len(own), len(offered))
    check_dimensions(own, offered)
    return unit_vectors(own) @ unit_vectors(offered).T


REPRESENTATIONS: Mapping[str, Callable] = {
    "raw": lambda z, h, keys: z,
    "residual": lambda z, h, keys: z - h,
    "key": lambda z, h, keys: keys,
    "centred": lambda z, h, keys: z - z.mean(0),
}


def check_dimensions(own: Tensor, offered: Tensor) -> None:
    """Raises ValueError unless both are rows `(n, d)` of one dimension."""
    if own.ndim != 2 or offered.ndim != 2 or own.shape[1] != offered.shape[1]:
        raise ValueError(
            f"own vectors are {tuple(own.shape)} and offered ones {tuple(offered.shape)}: give both as rows of one "
            "representation."
        )
