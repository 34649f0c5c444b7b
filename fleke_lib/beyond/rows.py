"""Rows: what an edit calls a fact, without a language model. A row maps one key to one wanted value.

    S = sum_i k_i k_i^T        T = sum_i v_i k_i^T        W = T (lam I + S)^-1

This is ridge regression, and also the closed-form edit with C = I, one context for each fact and no bystanders. A row
is a `KeyValue`, which is a `Contribution` of `fleke_lib.ridge.sums`. The closed form
(`fleke_lib.edit.closed_form.trajectory`), its sums, and the downdate (`fleke_lib.edit.downdate`) therefore take rows as
they are, and a row fits into a packet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.federation.packets.packet import Packet, assemble
from fleke_lib.ridge.sums import Sums

LAYER = 0  # the one layer that rows are of


@dataclass(frozen=True, eq=False)
class KeyValue:
    """One key and the value that it should map to, as a contribution to S and T.

    fingerprint: of what keys and values are made with; rows of one edit have the same.
    """

    key: Float[Tensor, " d"]
    value: Float[Tensor, " m"]
    fingerprint: str = "rows"
    bases: Mapping[int, Tensor] = field(default_factory=dict, init=False)
    left: Mapping[int, float] = field(default_factory=dict, init=False)

    @property
    def shares(self) -> Mapping[int, Float[Tensor, " m"]]:
        return {LAYER: self.value}

    @property
    def residual(self) -> Float[Tensor, " m"]:
        return self.value

    def mean(self, layer: int) -> Float[Tensor, " d"]:
        """The key, in float64."""
        return self.key.double()

    def spread(self, layer: int) -> Float[Tensor, "0 d"]:
        """No rows: there is one context and no bystander."""
        return self.key.double()[None][:0]


def rows_of(
    keys: Float[Tensor, "rows d"], values: Float[Tensor, "rows m"], fingerprint: str = "rows"
) -> list[KeyValue]:
    """One `KeyValue` for each key and its value. Raises ValueError if there are not as many of both."""
    _check(keys, values)
    return [KeyValue(key, value, fingerprint) for key, value in zip(keys, values, strict=True)]


def row_sums(keys: Float[Tensor, "rows d"], values: Float[Tensor, "rows m"]) -> Sums:
    """S and T of many rows in two products, in float64; `sums(rows_of(keys, values), 0)` up to rounding.

    Raises:
        ValueError: there are not as many keys as values.
    """
    _check(keys, values)
    k, v = keys.double(), values.double()
    return Sums(k.T @ k, v.T @ k)


def identity(d: int) -> dict[int, Float[Tensor, "d d"]]:
    """The second moments with which the closed form is ridge regression: C = I."""
    return {LAYER: torch.eye(d, dtype=torch.float64)}


def row_packet(row: KeyValue, client: str, slot: int, tags: Mapping[str, str], precision: str = "float32") -> Packet:
    """The packet of a row: the key is its mean key, the value its share and its z, and h is zero.

    Args:
        client, slot, tags: as for `federation.packets.packet.pack`.
        precision: of the vectors, as in `Compression`.

    Raises:
        ValueError: as for `assemble`.
    """
    key, value = row.key.float(), row.value.float()
    vectors = {
        "z": value,
        "h": torch.zeros_like(value),
        "shares": value[None].clone(),  # safetensors writes no memory twice
        "means": key[None].clone(),
        "moves": key[None][:0],
        "axes": key.new_zeros(1, 0, len(key)),
        "left": torch.zeros(1),
    }
    about = {"client": client, "slot": slot, "fingerprint": row.fingerprint, "layers": [LAYER], **tags}
    return assemble(vectors, about, precision)


def _check(keys: Tensor, values: Tensor) -> None:
    if len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys and {len(values)} values are given: give one value for each key.")
