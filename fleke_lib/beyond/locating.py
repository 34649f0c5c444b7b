"""Causal tracing of an image model: at which patch and layer a wrong answer comes from.

Two pictures are read: a *faulty* one, to which the model gives the wrong answer, and a *healthy* one, which is the same
without the cause. Then the healthy picture is read again, and one state, at token t and after layer l, is replaced by
that of the faulty one. P(t, l) is the probability of the wrong answer in this run, P that of the healthy run:

    indirect effect  IE(t, l) = P(t, l) - P

Chapter 01 corrupts a prompt with noise and restores a clean state. A picture can be healed instead of corrupted, so the
runs change places here and no noise is drawn (activation patching with counterfactual inputs, arXiv 2309.16042).
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fleke_lib.beyond.images import ImageModel
from fleke_lib.evaluation.resampling import Estimate, counts
from fleke_lib.model.activations import record, rewrite

KINDS = ("hidden", "mlp", "attention")


@dataclass(frozen=True, eq=False)
class ImageTrace:
    """Probabilities of the wrong answer for pairs of pictures.

    faulty, healthy: in these two runs, one number for each pair.
    scores: in the healthy run with one state of the faulty one, `(pairs, tokens, layers)`; token 0 is the class token.
    """

    kind: str
    faulty: Float[Tensor, " pairs"] = field(repr=False)
    healthy: Float[Tensor, " pairs"] = field(repr=False)
    scores: Float[Tensor, "pairs tokens layers"] = field(repr=False)

    @property
    def indirect(self) -> Float[Tensor, "pairs tokens layers"]:
        """IE: what each state alone adds to the probability of the wrong answer."""
        return self.scores - self.healthy[:, None, None]

    def at(self, tokens: Bool[Tensor, "pairs tokens"]) -> Estimate:
        """The greatest effect by layer at some tokens of each pair: mean over pairs, and its 95% bootstrap interval."""
        each = self.indirect.masked_fill(~tokens[:, :, None], -1.0).amax(1).double().numpy()
        drawn = counts(len(each), 1000) @ each / len(each)
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        return Estimate(each.mean(0), low, high)


@torch.no_grad()
def image_trace(
    lm: ImageModel,
    faulty: Float[Tensor, "pairs 1 side side"],
    healthy: Float[Tensor, "pairs 1 side side"],
    answer: int,
    kind: str = "hidden",
) -> ImageTrace:
    """Put each state of the faulty pictures into the healthy ones' runs, one at a time.

    Args:
        answer: the wrong answer, whose probability is measured.
        kind: "hidden" (output of a layer), "mlp" or "attention" (output of this part of a layer).

    Raises:
        ValueError: an unknown kind, or not as many healthy as faulty pictures.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: give one of {', '.join(KINDS)}.")
    if len(faulty) != len(healthy):
        raise ValueError(f"{len(faulty)} faulty and {len(healthy)} healthy pictures are given: give them in pairs.")
    modules = {layer: _module(lm, kind, layer) for layer in range(lm.n_layers)}
    with record(outputs=modules) as states:
        before = lm.read(faulty).softmax(-1)[:, answer]
    rows = healthy.repeat_interleave(lm.tokens, 0)
    place = torch.eye(lm.tokens, dtype=torch.bool).repeat(len(healthy), 1)[:, :, None]
    scores = []
    for layer, module in modules.items():
        state = states[layer].repeat_interleave(lm.tokens, 0)
        with rewrite({module: lambda output, state=state: torch.where(place, state, output)}):
            scores.append(lm.read(rows).softmax(-1)[:, answer].unflatten(0, (len(healthy), lm.tokens)))
    return ImageTrace(kind, before, lm.read(healthy).softmax(-1)[:, answer], torch.stack(scores, -1))


def _module(lm: ImageModel, kind: str, layer: int) -> nn.Module:
    return {"hidden": lm.layers.__getitem__, "mlp": lm.projection, "attention": lm.attention_out}[kind](layer)


def nearest(
    pictures: Float[Tensor, "pictures 1 side side"], others: Float[Tensor, "others 1 side side"]
) -> Float[Tensor, "pictures 1 side side"]:
    """For each picture the nearest of the others, by the distance of their pixels."""
    return others[torch.cdist(pictures.flatten(1), others.flatten(1)).argmin(1)]
