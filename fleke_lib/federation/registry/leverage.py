"""Leverage: how much of a layer's edit one vector can hold, whatever its norm.

A layer is solved from lam C + S, and S is a sum of x x^T over the mean keys and axes x of all packets. What x does
there depends on its leverage

    l(x) = x^T C^-1 x

A fact that is alone with its key of leverage l gets the fraction l / (lam + l) of its share. An axis d along the same
key leaves it l / (lam + l + l(d)). A norm does not show that: a short vector counts much where ordinary text has few
keys. The unit follows from C alone, because C is the second moment of ordinary keys k:

    E l(k) = tr(C^-1 C) = d_mlp

What a packet adds to tr(C^-1 S), in units of d_mlp, is its *weight*; lambda has the same unit. C's smallest eigenvalues
are measured badly, so C gets a floor before it is inverted; the unit is then the mean leverage of ordinary keys with
this floor, a little less than d_mlp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.moments import Moments, check_finite
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.ridge.solve import spd_factor

# Of the median diagonal entry of C, added to all eigenvalues. Not of the mean one: at an attention sink's layer one
# direction has nearly all of the trace.
FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class Leverage:
    """Leverages in units of an ordinary key's, by layer. `Leverage.of` makes one.

    factors: the lower Cholesky factor of C with its floor, divided by the root of the mean leverage of ordinary keys.
    traces: tr C.
    """

    factors: Mapping[int, Float[Tensor, "d_mlp d_mlp"]] = field(repr=False)
    traces: Mapping[int, float]

    @classmethod
    def of(cls, moments: Moments, layers: Sequence[int]) -> "Leverage":
        """From C of each of these layers.

        Raises:
            ValueError: a layer's C is missing, is zero, or has entries that are not finite.
        """
        if missing := set(layers) - set(moments):
            raise ValueError(f"moments has no C for layer {min(missing)}: give second_moments(lm, layers={layers}).")
        check_finite(moments, layers)
        factors, traces = {}, {}
        for layer in layers:
            C = moments[layer].double().cpu()
            traces[layer] = float(C.trace())
            if traces[layer] <= 0:
                raise ValueError(f"moments[{layer}] has the trace {traces[layer]}: measure the moments again.")
            factor = spd_factor(C + FLOOR * C.diagonal().median() * torch.eye(len(C), dtype=C.dtype))
            ordinary = float(torch.cholesky_solve(C, factor).trace())
            factors[layer] = factor * ordinary**0.5
        return cls(factors, traces)

    def rows(self, layer: int, vectors: Float[Tensor, "rows d_mlp"]) -> Float[Tensor, " rows"]:
        """The leverage of each row at a layer: 1 for an ordinary key in the mean."""
        whitened = torch.linalg.solve_triangular(self.factors[layer], vectors.double().T, upper=False)
        return whitened.square().sum(0)

    def weight(self, packet: Packet) -> float:
        """What a packet adds to tr(C^-1 S) in units of d_mlp, with the trace that it leaves out; the mean over layers.

        The trace tau counts as `tau C / tr C`, which adds tau / tr C.
        """
        each = [
            self.rows(layer, torch.stack([packet.means[layer], *packet.axes[layer]])).sum()
            + packet.left[layer] / self.traces[layer]
            for layer in packet.layers
        ]
        return float(sum(each) / len(each))
