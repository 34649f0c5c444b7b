"""The coupled solve: each layer is solved for the keys and the residual that the layers below really leave.

A trajectory assumes that every layer delivers exactly its share. Where facts are dense, the regression of a layer
delivers less: with 0.4 facts per MLP neuron about 0.85 of it. Then the recorded keys of the layers above do not occur,
and more is missing than was recorded. Both follow from the layers solved so far, without a model and without text. Let
A be what these layers deliver to a fact, and B what they should:

    A = sum dW k,    B = sum r        over the layers solved so far
    alpha = <A, B> / <B, B>           inner products over all facts: one number for a layer

For a fact with z - h still missing on the base model, mean key k0 there, recorded mean key k1 and recorded share r, and
with m edited layers left (l included), this layer is solved for

    k = k0 + alpha (k1 - k0)                                          the key that occurs
    q = r + ((1 - alpha) (z - h - m r) - (A - alpha B)) / m           an m-th of what is missing

    dW = (sum q k^T) (lam C + sum k k^T + D)^-1                       D: see `fleke_lib.ridge.sums`

Why q: with every share delivered, the layers below would have brought z - h - m r of the state (the recorded share is
an m-th of the rest). The fraction alpha of it was brought. What was delivered besides this fraction, A - alpha B,
is taken to reach L unchanged. Where everything is delivered, A = B, alpha = 1, and k = k1 and q = r: the edit from the
recorded keys and shares alone.

Everything that a layer is solved from is a sum over facts, given the layers below: <A, B>, <B, B>, sum q k^T, and
sum k k^T + D. Clients' sums therefore add, one round per layer. alpha depends on all facts, so a fact that leaves
changes every key above the first edited layer: the edit without it is solved anew, and no downdate of low rank exists.

Relatives: CollabEdit (arXiv 2410.09508) adds sums in one round per layer, with text; Forward Replay (arXiv 2605.00358)
and cumulative ridge (arXiv 2605.26670) meet the same shortfall with the model at hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.ridge.solve import LowRank
from fleke_lib.ridge.sums import Contribution, Sums, left_out, recorded, spread, stacked

MOST = 1.2  # bound of alpha: what is delivered beyond the shares comes from other facts, and is not extrapolated


@dataclass(frozen=True, eq=False)
class Asked:
    """What one layer is solved for: keys k, wanted outputs q, and D with the trace that it leaves out, in float64."""

    keys: Float[Tensor, "facts d_mlp"]
    wanted: Float[Tensor, "facts d_model"]
    spread: Float[Tensor, "d_mlp d_mlp"]
    left: float

    def sums(self) -> Sums:
        """`S = sum k k^T + D` and `T = sum q k^T`."""
        return Sums(self.keys.T @ self.keys + self.spread, self.wanted.T @ self.keys, self.left)


@dataclass(frozen=True, eq=False)
class Delivery:
    """One party's facts on their way through the layers; `layer_by_layer` takes all parties through.

    delivered, supposed: A and B of each fact. coupling: see `closed_form.trajectory`.
    """

    contributions: Sequence[Contribution]
    layers: tuple[int, ...]
    coupling: float
    delivered: Float[Tensor, "facts d_model"]
    supposed: Float[Tensor, "facts d_model"]

    @classmethod
    def start(
        cls,
        contributions: Sequence[Contribution],
        coupling: float,
        device: torch.device | str | None = None,
    ) -> "Delivery":
        """Before the first layer: nothing is delivered."""
        nothing = torch.zeros_like(stacked([one.residual for one in contributions], device))
        return cls(contributions, tuple(sorted(contributions[0].shares)), coupling, nothing, nothing)

    def products(self) -> Float[Tensor, "2"]:
        """<A, B> and <B, B> over this party's facts."""
        return torch.stack([(self.delivered * self.supposed).sum(), self.supposed.square().sum()])

    def asked(self, layer: int, alpha: float) -> Asked:
        """Keys and wanted outputs of one layer, of which the layers below deliver the fraction alpha."""
        here, device = self.contributions, self.delivered.device
        m = len(self.layers) - self.layers.index(layer)
        k1 = stacked([one.mean(layer) for one in here], device)
        k0 = stacked([one.bases.get(layer, one.mean(layer)) for one in here], device)
        r, missing = recorded(here, layer, device), stacked([one.residual for one in here], device)
        q = r + ((1 - alpha) * (missing - m * r) - (self.delivered - alpha * self.supposed)) / m
        return Asked(k0 + alpha * (k1 - k0), q, spread(here, layer, device), left_out(here, layer))

    def after(self, layer: int, asked: Asked, change: LowRank) -> "Delivery":
        """With what this layer's change delivers to the keys that occur; with coupling 0, its whole share."""
        r = recorded(self.contributions, layer, self.delivered.device)
        brought = asked.keys @ change.right.T @ change.left.T
        a = r + self.coupling * (brought - r)
        return replace(self, delivered=self.delivered + a, supposed=self.supposed + r)


def layer_by_layer(parties: Sequence[Delivery], solve: Callable[[int, Sequence[Asked]], LowRank]) -> dict[int, LowRank]:
    """All layers' changes, from below; `solve(layer, asked)` gives dW from what every party asks of the layer."""
    changes: dict[int, LowRank] = {}
    for layer in parties[0].layers:
        alpha = fraction(torch.stack([party.products() for party in parties]).sum(0))
        asked = [party.asked(layer, alpha) for party in parties]
        changes[layer] = solve(layer, asked)
        parties = [party.after(layer, own, changes[layer]) for party, own in zip(parties, asked, strict=True)]
    return changes


def fraction(products: Float[Tensor, "2"]) -> float:
    """alpha = <A, B> / <B, B>, from 0 to `MOST`; 1 where no share was asked of any layer yet."""
    reached, supposed = products.tolist()
    return min(max(reached / supposed, 0.0), MOST) if supposed else 1.0
