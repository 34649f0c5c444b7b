"""MEMIT: mass-editing memory in a transformer (Meng et al., arXiv 2210.07229)."""

from collections.abc import Sequence

import torch

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.methods import Method
from fleke_lib.edit.moments import Moments, moments_for
from fleke_lib.edit.write import Share, check_facts, write
from fleke_lib.facts.contexts import check_contexts, contexts_for
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import same_key
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.post_norm import carried
from fleke_lib.model.presets import Hparams
from fleke_lib.ridge.solve import ridge


def memit(
    lm: LanguageModel,
    facts: Sequence[Fact],
    mkvs: Sequence[Mkv] | None = None,
    moments: Moments | None = None,
    contexts: tuple[str, ...] | None = None,
    hparams: Hparams | None = None,
) -> Edit:
    """Edit all facts at once; the model is unchanged.

    For each edited layer l from below, with m edited layers left (l included), on the model as edited so far:

        R_l = (Z - H_L) / m,    dW_l = R_l^T K_l (lam C_l + K_l^T K_l)^-1

    Facts with the same key (the same tokens up to the subject's last one) cannot have different values; one common MKV
    is optimised for all of them (MEMIT-Merge, arXiv 2502.07322).

    Args:
        mkvs: one for each fact; computed by default.
        moments: C of each edited layer, `{layer: (d_mlp, d_mlp)}`; `second_moments` by default.
        contexts: prefixes, the first one `""`; the model's own by default.
        hparams: the preset's by default.

    Raises:
        ValueError: there are no facts, facts and MKVs do not match, or a layer's C is missing or has the wrong shape.

    Source: arXiv 2210.07229, section 4.3, equations 14 and 20, and its public code.
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
        solve=lambda layer, keys, residuals: ridge(keys, residuals, moments[layer], hparams.lam),
        method="memit",
    )


METHOD = Method("MEMIT", memit)


def residual_share(mkvs: Sequence[Mkv]) -> Share:
    """MEMIT's share: what is still missing at L divided by the number of layers left.

    Where a norm follows the MLP, the share is converted to a change of the norm's input (`carried`).
    """
    z = torch.stack([mkv.z for mkv in mkvs])

    def share(readings, to_go):
        wanted = (z.to(readings.lm.device) - readings.states()) / to_go
        return carried(readings.lm, readings.layer, readings.outputs(readings.layer), wanted)

    return share
