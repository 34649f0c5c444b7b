"""PMET: precise model editing in a transformer (Li et al., arXiv 2308.08742)."""

from collections.abc import Sequence

import torch

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.methods import Method
from fleke_lib.edit.moments import Moments, moments_for
from fleke_lib.edit.write import check_facts, write
from fleke_lib.facts.contexts import check_contexts, contexts_for
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import same_key
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.mkv.pmet import pmet_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import Hparams, chosen
from fleke_lib.ridge.solve import ridge


def pmet(
    lm: LanguageModel,
    facts: Sequence[Fact],
    mkvs: Sequence[Mkv] | None = None,
    moments: Moments | None = None,
    contexts: tuple[str, ...] | None = None,
    hparams: Hparams | None = None,
) -> Edit:
    """Edit all facts at once; the model is unchanged.

    Here an MKV is a wanted output of layer L's MLP, not a state of the residual stream. For each edited layer l from
    below, with m edited layers left (l included) and M_L the MLP's output at L in the model as edited so far:

        R_l = (Z - M_L) / sqrt(m),    dW_l = R_l^T K_l (lam C_l + K_l^T K_l)^-1

    Arguments and errors as for `memit`; `mkvs` come from `pmet_mkvs`.

    Source: arXiv 2308.08742, equations 14 to 19, and its public code, which writes the MLP only.
    """
    hparams = chosen(hparams, lm.preset, "pmet")
    contexts = check_contexts(contexts or contexts_for(lm))
    check_facts(lm, facts, mkvs)
    moments = moments_for(lm, hparams.layers, moments)
    mkvs = mkvs or pmet_mkvs(lm, facts, contexts, hparams, groups=same_key(lm, facts), keys=())
    z = torch.stack([mkv.z for mkv in mkvs]).to(lm.device)
    return write(
        lm,
        facts,
        contexts,
        hparams.layers,
        share=lambda readings, to_go: (z - readings.outputs(hparams.layer)) / to_go**0.5,
        solve=lambda layer, keys, residuals: ridge(keys, residuals, moments[layer], hparams.lam),
        method="pmet",
    )


METHOD = Method("PMET", pmet, vectors="pmet")
