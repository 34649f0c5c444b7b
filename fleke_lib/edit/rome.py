"""ROME: rank-one model editing (Meng et al., arXiv 2202.05262)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.methods import Method
from fleke_lib.edit.moments import Moments, moments_for
from fleke_lib.edit.readings import read
from fleke_lib.edit.write import check_facts
from fleke_lib.facts.contexts import check_contexts, contexts_for
from fleke_lib.facts.fact import Fact
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.post_norm import carried
from fleke_lib.model.presets import Hparams
from fleke_lib.ridge.solve import LowRank, interpolate

TOGETHER = 512  # facts whose writes are kept apart; about where a matrix takes less time than factors


def rome(
    lm: LanguageModel,
    facts: Sequence[Fact],
    mkvs: Sequence[Mkv] | None = None,
    moments: Moments | None = None,
    contexts: tuple[str, ...] | None = None,
    hparams: Hparams | None = None,
) -> Edit:
    """Edit facts one by one in one layer, each with an equality constraint; the model is unchanged.

    With u = C^-1 k for the mean key k of all contexts, and k_0 the bare prompt's key, each fact in turn adds

        dW = (v - W k_0) u^T / (u^T k_0),    v = W_0 k_0 + (z - h)

    to the current weight W; W_0 is the base weight. Right after this, `W k_0 = v` holds exactly. Later facts disturb
    earlier ones, since no constraint protects them.

    Arguments and errors as for `memit`. Also raises ValueError if `hparams` does not have exactly one layer. z is
    computed on the unedited model for every fact.

    Source: arXiv 2202.05262, equation 2, and its public code.
    """
    hparams = hparams or lm.preset.rome
    if len(hparams.layers) != 1:
        raise ValueError(f"ROME edits one layer, but layers is {hparams.layers}: give one.")
    contexts = check_contexts(contexts or contexts_for(lm))
    check_facts(lm, facts, mkvs)
    moments = moments_for(lm, hparams.layers, moments)
    mkvs = mkvs or compute_mkvs(lm, facts, contexts, hparams, keys=())
    layer = hparams.layer

    readings = read(lm, facts, contexts, hparams.layers)
    keys = readings.context_keys().double()
    directions = torch.linalg.solve(moments[layer].double().to(keys), keys.mean(1).T).T
    residuals = torch.stack([mkv.residual for mkv in mkvs]).to(lm.device)
    wanted = carried(lm, layer, readings.outputs(layer), residuals)
    change = one_by_one(directions, keys[:, 0], wanted).smallest()
    return Edit({layer: change}, lm.fingerprint(hparams.layers), "rome", {"facts": str(len(facts))})


METHOD = Method("ROME", rome)


def one_by_one(
    directions: Float[Tensor, "facts d_mlp"],
    keys: Float[Tensor, "facts d_mlp"],
    wanted: Float[Tensor, "facts d_model"],
) -> LowRank:
    """The sum of rank-one updates; each adds what its fact still needs after the updates before it.

    After every `TOGETHER` facts the updates so far are added up to one matrix: time is linear in the number of facts.
    """
    directions, keys, wanted = directions.double(), keys.double(), wanted.double()
    left, right, done = torch.zeros_like(wanted.T.contiguous()), torch.zeros_like(keys), 0.0
    for begin in range(0, len(keys), TOGETHER):
        here, before = slice(begin, begin + TOGETHER), slice(max(0, begin - TOGETHER), begin)
        missing = wanted[here]
        if begin:
            done = done + left[:, before] @ right[before]
            missing = missing - keys[here] @ done.T
        for i, (u, k, r) in enumerate(zip(directions[here], keys[here], missing, strict=True), begin):
            write = interpolate(u, k, r - left[:, begin:i] @ (right[begin:i] @ k))
            left[:, i], right[i] = write.left[:, 0], write.right[0]
    return LowRank(left, right)
