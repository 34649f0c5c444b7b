"""EMMET: all facts at once, each written exactly, as far as their keys differ (Gupta et al., arXiv 2403.14236)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.memit import residual_share
from fleke_lib.edit.methods import Method
from fleke_lib.edit.moments import Moments, moments_for
from fleke_lib.edit.write import check_facts, write
from fleke_lib.facts.contexts import check_contexts, contexts_for
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import same_key
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import Hparams
from fleke_lib.ridge.solve import LowRank, spd_solve

DAMPING = 1e-2  # of the mean diagonal of K C^-1 K^T: facts whose keys are alike cannot all be exact


def emmet(
    lm: LanguageModel,
    facts: Sequence[Fact],
    mkvs: Sequence[Mkv] | None = None,
    moments: Moments | None = None,
    contexts: tuple[str, ...] | None = None,
    hparams: Hparams | None = None,
) -> Edit:
    """The smallest change, measured by C, that gives every key its value; the model is unchanged.

    Goes through the layers as MEMIT does. Where MEMIT balances facts against ordinary text, EMMET has the facts as
    equality constraints; ROME is the case of one fact and one layer:

        dW_l = R_l^T (K_l C_l^-1 K_l^T)^-1 K_l C_l^-1

    The public code adds a multiple of the identity, w I, to the system, because keys that are alike make it singular.
    By the push-through identity, damped EMMET is MEMIT with lambda = w. Here w is `DAMPING` times the mean diagonal of
    the system, so a layer's lambda follows from its keys.

    Arguments and errors as for `memit`; `lam` of the hyperparameters has no effect.

    Source: arXiv 2403.14236, equation 13, and its public code, scalable-model-editing/unified-model-editing.
    """
    hparams = hparams or lm.preset.memit
    contexts = check_contexts(contexts or contexts_for(lm))
    check_facts(lm, facts, mkvs)
    moments = moments_for(lm, hparams.layers, moments)
    mkvs = mkvs or compute_mkvs(lm, facts, contexts, hparams, groups=same_key(lm, facts), keys=())
    return write(
        lm,
        facts,
        contexts,
        hparams.layers,
        share=residual_share(mkvs),
        solve=lambda layer, keys, residuals: constrained(keys, residuals, moments[layer]),
        method="emmet",
    )


METHOD = Method("EMMET", emmet)


def constrained(
    keys: Float[Tensor, "facts d_mlp"],
    residuals: Float[Tensor, "facts d_model"],
    moment: Float[Tensor, "d_mlp d_mlp"],
    damping: float = DAMPING,
) -> LowRank:
    """`dW = R^T (K C^-1 K^T + w I)^-1 K C^-1`, which minimises `tr(dW C dW^T)` under `dW K^T = R^T` for w = 0.

    Args:
        damping: w in units of the mean diagonal of `K C^-1 K^T`.

    Raises:
        ValueError: C is singular, or the damping is 0 and keys are linearly dependent.
    """
    k, r = keys.double(), residuals.double()
    u = spd_solve(moment.to(k), k.T).T  # K C^-1
    gram = u @ k.T
    system = gram + damping * gram.diagonal().mean() * torch.eye(len(k), dtype=k.dtype, device=k.device)
    return LowRank(r.T.contiguous(), spd_solve(system, u))
