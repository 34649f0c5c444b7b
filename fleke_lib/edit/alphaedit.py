"""AlphaEdit: null-space constrained knowledge editing (Fang et al., ICLR 2025)."""

from collections.abc import Sequence

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
from fleke_lib.model.presets import AlphaEditHparams, chosen
from fleke_lib.ridge.solve import null_space, projected_ridge

NULLSPACE = 0.75  # in units of C's mean eigenvalue; on average over the default model's layers, the published 0.02


def alphaedit(
    lm: LanguageModel,
    facts: Sequence[Fact],
    mkvs: Sequence[Mkv] | None = None,
    moments: Moments | None = None,
    contexts: tuple[str, ...] | None = None,
    hparams: AlphaEditHparams | None = None,
) -> Edit:
    """Edit all facts at once, in the null space of ordinary text's keys; the model is unchanged.

    Goes through the layers as MEMIT does. P_l projects on the eigenvectors of C_l with eigenvalues below `nullspace`:

        dW_l = R_l^T K_l P_l (K_l^T K_l P_l + ridge I)^-1

    Arguments and errors as for `memit`. Also raises ValueError if neither `hparams` nor the preset has hyperparameters.

    Source: AlphaEdit, section 3, and its public code, for one batch without earlier edits.
    """
    hparams = chosen(hparams, lm.preset, "alphaedit")
    contexts = check_contexts(contexts or contexts_for(lm))
    check_facts(lm, facts, mkvs)
    moments = moments_for(lm, hparams.layers, moments)
    mkvs = mkvs or compute_mkvs(lm, facts, contexts, hparams, groups=same_key(lm, facts), keys=())
    projectors = {layer: null_space(moments[layer], threshold(moments[layer], hparams)) for layer in hparams.layers}
    return write(
        lm,
        facts,
        contexts,
        hparams.layers,
        share=residual_share(mkvs),
        solve=lambda layer, keys, residuals: projected_ridge(keys, residuals, projectors[layer], hparams.ridge),
        method="alphaedit",
    )


METHOD = Method("AlphaEdit", alphaedit)


def threshold(moment: Float[Tensor, "d_mlp d_mlp"], hparams: AlphaEditHparams) -> float:
    """The eigenvalue of C below which a direction counts as unused: `nullspace`, or relative to C's mean eigenvalue."""
    return NULLSPACE * float(moment.diagonal().mean()) if hparams.nullspace is None else hparams.nullspace
