"""BLUE: boundary layer update of MEMIT (Li et al., NeurIPS 2025, arXiv 2502.03748)."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.memit import memit
from fleke_lib.edit.methods import Method
from fleke_lib.edit.moments import Moments, moments_for
from fleke_lib.facts.fact import Fact
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import Hparams


def blue(
    lm: LanguageModel,
    facts: Sequence[Fact],
    moments: Moments | None = None,
    contexts: tuple[str, ...] | None = None,
    hparams: Hparams | None = None,
) -> Edit:
    """Edit all facts at once, in the first and the last edited layer only; the model is unchanged.

    For both layers in turn, on the model as edited so far, new MKVs z are optimised at this layer, and the whole
    residual is written, not a share of it:

        R_l = Z_l - H_l,    dW_l = R_l^T K_l (lam C_l + K_l^T K_l)^-1

    MEMIT's z is of the last layer, and its residual there is spread over the layers below, where it is not what these
    layers should add. BLUE asks each of its layers for what was optimised there. The second layer writes what is still
    missing: a fact whose loss is small after the first layer's edit hardly moves.

    Arguments and errors as for `memit`, of which this is one call for each layer. MKVs cannot be given, since those of
    the second layer depend on the first layer's edit.

    Source: arXiv 2502.03748 and its public code, xpq-tech/BLUE, whose settings are MEMIT's.
    """
    hparams = hparams or lm.preset.memit
    layers = tuple(sorted({hparams.layers[0], hparams.layer}))
    moments = moments_for(lm, layers, moments)
    fingerprint, changes = lm.fingerprint(layers), {}
    with ExitStack() as so_far:
        for layer in layers:
            edit = memit(lm, facts, None, moments, contexts, replace(hparams, layers=(layer,)))
            changes |= edit.changes
            so_far.enter_context(edit.applied(lm))
    return Edit(changes, fingerprint, "blue", {"facts": str(len(facts))})


METHOD = Method("BLUE", lambda lm, facts, mkvs, moments: blue(lm, facts, moments), vectors=None)
