"""What is done instead of withdrawing exactly, each from the weights that a client has, and how far it misses.

With A = lam C + S, and S_W, T_W the sums of the withdrawn facts, less those of what came in their place, the step is
along

    g = dW S_W - T_W        the objective's gradient at dW, once these facts are taken out of it, with its sign turned

The objective is quadratic, so that one Newton step with the Hessian of what remains, A - S_W, arrives. The usual
influence function (Koh and Liang, arXiv 1703.04730) takes the Hessian at hand, A, and falls short: it believes that the
withdrawn keys are still held in place. Where facts are nearly interpolated, it hardly moves.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from fleke_lib.edit import Edit, memit
from fleke_lib.edit.downdate import FactoredEdit, FactoredLayer
from fleke_lib.edit.moments import Moments
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.weights import sum_edits
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.ridge.solve import LowRank
from fleke_lib.ridge.sums import Contribution, sums


def subtract(edit: Edit, own: Edit) -> Edit:
    """The edit minus the update that the withdrawn facts alone would have given: `dW - dW_W`."""
    minus = {layer: LowRank(-change.left, change.right) for layer, change in own.changes.items()}
    return sum_edits([edit, replace(own, changes=minus)])


def influence(factored: FactoredEdit, gone: Sequence[Contribution], come: Sequence[Contribution] = ()) -> Edit:
    """One step with the old Hessian: `dW + g A^-1`."""
    return _stepped(factored, gone, come, lambda layer, S: layer.factor)


def newton(factored: FactoredEdit, gone: Sequence[Contribution], come: Sequence[Contribution] = ()) -> Edit:
    """One step with the Hessian of what remains: `dW + g (A - S_W)^-1`. Exact; it costs a factorisation."""
    return _stepped(factored, gone, come, lambda layer, S: torch.linalg.cholesky(layer.factor @ layer.factor.T - S))


def edited_back(lm: LanguageModel, edit: Edit, facts: Sequence[Fact], moments: Moments) -> Edit:
    """The edit, and on top of it MEMIT of the same questions back to their true answers. Needs their text.

    This writes the truth over the facts instead of taking them out, and the model is left as it was.
    """
    truths = [replace(fact, target_new=fact.target_true, target_true=fact.target_new) for fact in facts]
    with edit.applied(lm):
        back = memit(lm, truths, compute_mkvs(lm, truths), moments)
    return sum_edits([edit, replace(back, fingerprint=edit.fingerprint)])


def missed(edit: Edit, control: Edit, before: Edit) -> float:
    """How far an edit is from the never-joined control, as a share of the withdrawn facts' whole effect.

    `|dW - dW_control| / |dW_before - dW_control|`, over all layers: 0 is exact, 1 is doing nothing.
    """
    return apart(edit, control) / apart(before, control)


def apart(one: Edit, other: Edit) -> float:
    """The Frobenius distance of two edits over all layers."""
    return float(torch.stack([(one.delta(i) - other.delta(i)).double().norm() for i in other.layers]).norm())


def _stepped(factored: FactoredEdit, gone: Sequence[Contribution], come: Sequence[Contribution], hessian) -> Edit:
    layers = {}
    for number, layer in factored.layers.items():
        withdrawn = sums(gone, number) - sums(come, number) if come else sums(gone, number)
        gradient = layer.change @ withdrawn.S - withdrawn.T
        step = torch.cholesky_solve(gradient.T, hessian(layer, withdrawn.S)).T
        layers[number] = FactoredLayer(layer.factor, layer.change + step)
    return FactoredEdit(layers, factored.fingerprint).edit()
