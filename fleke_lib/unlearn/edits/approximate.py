"""Approximate withdrawals, each computed from a client's current weights, and their distance from the exact one.

All are for the edit with coupling 0, whose objective is one quadratic per layer (see `edit.closed_form.trajectory`).
Let A = lam C + S. Let S_W and T_W be the sums of the withdrawn facts minus those of the facts that replace them. Then

    g = dW S_W - T_W        minus the gradient at dW of the objective without the withdrawn facts

The objective is quadratic, so one Newton step with the remaining facts' Hessian, A - S_W, reaches its minimum. The
usual influence function (Koh and Liang, arXiv 1703.04730) uses the current Hessian, A, and stops short, because A still
contains the withdrawn keys. Where facts are nearly interpolated, its step is almost zero.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from fleke_lib.edit import Edit, memit
from fleke_lib.edit.downdate import FactoredEdit
from fleke_lib.edit.moments import Moments
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.federation.weights import sum_edits
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.ridge.solve import LowRank
from fleke_lib.ridge.sums import Contribution, sums


def subtract(edit: Edit, own: Edit) -> Edit:
    """The edit minus the edit of the withdrawn facts alone: `dW - dW_W`."""
    minus = {layer: LowRank(-change.left, change.right) for layer, change in own.changes.items()}
    return sum_edits([edit, replace(own, changes=minus)])


def influence(factored: FactoredEdit, gone: Sequence[Contribution], come: Sequence[Contribution] = ()) -> Edit:
    """One step with the old Hessian: `dW + g A^-1`. `come` are the facts that replace the withdrawn ones, `gone`."""
    return _stepped(factored, gone, come, lambda layer, A: layer.factor)


def newton(factored: FactoredEdit, gone: Sequence[Contribution], come: Sequence[Contribution] = ()) -> Edit:
    """One step with the remaining facts' Hessian: `dW + g (A - S_W)^-1`. Exact; it costs one factorisation per layer.

    Args:
        factored: the current edit with its Cholesky factors.
        gone: the withdrawn facts' packets or trajectories.
        come: the packets that replace withdrawn ones, for example a copy of a reused packet made by its user.
    """
    return _stepped(factored, gone, come, lambda layer, A: torch.linalg.cholesky(layer.factor @ layer.factor.T - A))


def edited_back(lm: LanguageModel, edit: Edit, facts: Sequence[Fact], moments: Moments) -> Edit:
    """The edit plus a MEMIT edit of the same questions back to their true answers. It needs the facts' text.

    This overwrites the facts with the truth instead of removing them. The model is unchanged afterwards.
    """
    check_list(facts)
    truths = [replace(fact, target_new=fact.target_true, target_true=fact.target_new) for fact in facts]
    with edit.applied(lm):
        back = memit(lm, truths, compute_mkvs(lm, truths), moments)
    return sum_edits([edit, replace(back, fingerprint=edit.fingerprint)])


def missed(edit: Edit, control: Edit, before: Edit) -> float:
    """The distance of an edit from the never-joined control, as a share of the withdrawn facts' whole effect.

    `|dW - dW_control| / |dW_before - dW_control|` over all layers (Frobenius norm): 0 is exact, 1 is doing nothing.
    """
    return apart(edit, control) / apart(before, control)


def apart(one: Edit, other: Edit) -> float:
    """The Frobenius distance of two edits over all layers."""
    return float(torch.stack([(one.delta(i) - other.delta(i)).double().norm() for i in other.layers]).norm())


def _stepped(factored: FactoredEdit, gone: Sequence[Contribution], come: Sequence[Contribution], hessian) -> Edit:
    layers = {}
    for number, layer in factored.layers.items():
        withdrawn = sums(gone, number) - sums(come, number) if come else sums(gone, number)
        system = withdrawn.system(layer.moment, lam=0)
        gradient = layer.change @ system - withdrawn.T
        step = torch.cholesky_solve(gradient.T, hessian(layer, system)).T
        layers[number] = replace(layer, change=layer.change + step)
    return FactoredEdit(layers, factored.fingerprint).edit()
