"""The playground's packets in few dimensions, without any loss, as one small file that a browser reads.

A solve needs keys k only through the inner products k C^-1 k', and shares only through their own. With C = L L^T, the
vectors L^-1 k of one layer are therefore written in an orthonormal basis of their span, and shares in one of theirs:

    L^-1 k = Q x,   r = P y        dW' = (sum y x^T) (lambda I + sum x x^T + D')^-1        dW = P dW' Q^T L^-1

With n facts, x has at most 3n numbers instead of d_mlp (mean key, its way from the base model's, one axis of the
spread), and y has n times the number of layers. The basis is made vector by vector (QR), so row i of such a block is
zero after its first i + 1 numbers: a triangle. Numbers are stored in 16 bits with one scale per row; only this rounds.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fleke_lib.edit import Edit
from fleke_lib.edit.moments import Moments
from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.federation.packets.compression import principal
from fleke_lib.storage.files import DATA

FILE = DATA / "playground.json"
FORMAT = "fleke-playground-1"
AXES = 1
UNIT = 2.0**-16  # the hash covers dW' in whole multiples of this, so that rounding of the last bits does not change it


@dataclass(frozen=True, eq=False)
class ReducedPacket:
    """What one fact contributes to an edit, in the page's coordinates: C is the identity there (`ridge.sums`).

    means, bases, axes, shares, left: by layer, as in `federation.Packet`.
    """

    means: Mapping[int, Tensor]
    bases: Mapping[int, Tensor]
    axes: Mapping[int, Tensor]
    shares: Mapping[int, Tensor]
    left: Mapping[int, float]
    fingerprint: str = FORMAT

    @property
    def residual(self) -> Tensor:
        """z - h: the first layer is asked for one share of m."""
        return len(self.shares) * self.shares[min(self.shares)]

    def mean(self, layer: int) -> Tensor:
        return self.means[layer]

    def spread(self, layer: int) -> Tensor:
        return self.axes[layer]


@dataclass(frozen=True, eq=False)
class Reduction:
    """The triangles of some facts for one set of layers, and what leads back to the full size.

    keys: by layer, rows in the order means, ways from the base keys (from the second layer on), axes.
    shares: rows layer by layer, one per fact.
    rest: by layer, for each fact, the part of lambda that stands for what its axes leave out.
    bases: by layer, Q and L; P: see the module.
    """

    keys: Mapping[int, Tensor]
    shares: Tensor
    rest: Mapping[int, list[float]]
    bases: Mapping[int, tuple[Tensor, Tensor]]
    P: Tensor


def reduce(paths: Sequence[Trajectory], moments: Moments) -> Reduction:
    """The trajectories of some facts in the page's coordinates."""
    layers, keys, rest, bases = paths[0].layers, {}, {}, {}
    for layer in layers:
        C = moments[layer].double()
        axes, left = zip(*(principal(path, layer, AXES) for path in paths), strict=True)
        means = torch.stack([path.mean(layer) for path in paths])
        moves = means - torch.stack([path.bases[layer].double() for path in paths])
        rows = torch.cat([means, *([moves] if layer != layers[0] else []), *axes])
        L = torch.linalg.cholesky(C)
        Q, R = torch.linalg.qr(torch.linalg.solve_triangular(L, rows.T, upper=False))
        keys[layer], bases[layer] = R.T, (Q, L)
        rest[layer] = [tau / float(C.trace()) for tau in left]
    P, R = torch.linalg.qr(torch.stack([path.shares[layer].double() for layer in layers for path in paths]).T)
    return Reduction(keys, R.T, rest, bases, P)


def written(reductions: Sequence[Reduction]) -> dict[str, object]:
    """The vectors of all sets of layers, as the file holds them."""
    blocks = [block for one in reductions for block in (*one.keys.values(), one.shares)]
    rows = [block[i, : i + 1] for block in blocks for i in range(len(block))]
    scales = [np.float32(float(row.abs().max()) / 32767 or 1.0) for row in rows]
    numbers = [np.rint(row.numpy() / np.float64(s)).astype("<i2") for row, s in zip(rows, scales, strict=True)]
    return {
        "rest": [[[float(f"{x:.9g}") for x in one.rest[layer]] for layer in one.rest] for one in reductions],
        "scales": base64.b64encode(np.array(scales, "<f4").tobytes()).decode(),
        "numbers": base64.b64encode(np.concatenate(numbers).tobytes()).decode(),
    }


def packets(data: Mapping, count: int) -> list[ReducedPacket]:
    """The packets of all facts in a file for an edit of its last `count` layers, as the page reads them."""
    scales = np.frombuffer(base64.b64decode(data["scales"]), "<f4").astype(np.float64)
    numbers = np.frombuffer(base64.b64decode(data["numbers"]), "<i2").astype(np.float64)
    facts, row, at = len(data["facts"]), 0, 0

    def triangle(size: int) -> Tensor:
        nonlocal row, at
        block = np.zeros((size, size))
        for i in range(size):
            block[i, : i + 1] = numbers[at : at + i + 1] * scales[row]
            row, at = row + 1, at + i + 1
        return torch.from_numpy(block)

    for m in range(1, count + 1):
        layers = data["layers"][-m:]
        keys = {layer: triangle((2 + (layer != layers[0])) * facts).split(facts) for layer in layers}
        shares = dict(zip(layers, triangle(m * facts).split(facts), strict=True))
    rest = dict(zip(layers, data["rest"][count - 1], strict=True))
    return [
        ReducedPacket(
            means={layer: keys[layer][0][i] for layer in layers},
            bases={layer: keys[layer][0][i] - sum(block[i] for block in keys[layer][1:-1]) for layer in layers},
            axes={layer: keys[layer][-1][i : i + 1] for layer in layers},
            shares={layer: shares[layer][i] for layer in layers},
            left={layer: rest[layer][i] * len(keys[layer][0][i]) for layer in layers},  # times tr I
        )
        for i in range(facts)
    ]


def identities(one: ReducedPacket) -> dict[int, Tensor]:
    """C in the page's coordinates."""
    return {layer: torch.eye(len(mean), dtype=torch.float64) for layer, mean in one.means.items()}


def change_hash(edit: Edit) -> str:
    """SHA-256 of an edit as the page computes it: each layer's number, then dW' in units of `UNIT`, row by row."""
    digest = hashlib.sha256()
    for layer in edit.layers:
        whole = np.floor(edit.delta(layer).numpy() / UNIT + 0.5).astype("<i4")
        digest.update(f"{layer}:".encode() + whole.tobytes())
    return digest.hexdigest()


def read(path: Path = FILE) -> dict:
    """The file. Raises ValueError if it has another format."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("format") != FORMAT:
        raise ValueError(f"{path} has not the format {FORMAT}: make it again with data/make_playground.py.")
    return data
