"""PMET: precise model editing in a transformer (Li et al., arXiv 2308.08742)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.methods import Method
from fleke_lib.edit.write import check_facts, write
from fleke_lib.facts.contexts import check_contexts, contexts_for
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import Stage, same_key
from fleke_lib.mkv import Mkv, collect, in_batches, leaders
from fleke_lib.model.activations import rewrite
from fleke_lib.model.presets import Hparams, chosen
from fleke_lib.moments import moments_for
from fleke_lib.objective import Terms, minimise, objective
from fleke_lib.ridge.solve import ridge

if TYPE_CHECKING:
    from fleke_lib.model.language_model import LanguageModel


def pmet(
    lm: "LanguageModel",
    facts: Sequence[Fact],
    mkvs: Sequence[Mkv] | None = None,
    moments: Mapping[int, Float[Tensor, "d_mlp d_mlp"]] | None = None,
    contexts: tuple[str, ...] | None = None,
    hparams: Hparams | None = None,
) -> Edit:
    """Edit all facts at once; the model is unchanged.

    An MKV is here what the MLP of layer L should return, not the residual stream. For each layer l in turn, with m
    layers still to go and M_L the MLP's output at L of the model as edited so far:

        R_l = (Z - M_L) / sqrt(m),    dW_l = R_l^T K_l (lam C_l + K_l^T K_l)^-1

    Arguments as for `memit`; `mkvs` are those of `pmet_mkvs`.

    Source: arXiv 2308.08742, equations 14 to 19, and its public code, which writes the MLP only.
    """
    hparams = chosen(hparams, lm.preset, "pmet")
    contexts = check_contexts(contexts or contexts_for(lm))
    check_facts(lm, facts, mkvs)
    moments = moments_for(lm, hparams.layers, moments)
    mkvs = mkvs or pmet_mkvs(lm, facts, contexts, hparams, groups=same_key(lm, facts))
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


def pmet_mkvs(
    lm: "LanguageModel",
    facts: Sequence[Fact],
    contexts: tuple[str, ...] | None = None,
    hparams: Hparams | None = None,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    batch: int = 16,
) -> list[Mkv]:
    """PMET's MKVs: one delta is optimised for the attention's and one for the MLP's output at L, the latter is kept.

    `z` and `h` of the result are outputs of layer L's MLP, `(d_model,)`. Arguments as for `compute_mkvs`.
    """
    hparams = chosen(hparams, lm.preset, "pmet")

    def solve(members, owner, contexts, hparams):
        return _solve(lm, [facts[i] for i in members], owner, contexts, hparams)

    return in_batches(solve, lm, facts, contexts, hparams, groups, batch)


def _solve(
    lm: "LanguageModel", facts: list[Fact], owner: Int[Tensor, " facts"], contexts: tuple[str, ...], hparams: Hparams
) -> list[Mkv]:
    """The MKVs of one batch; `owner[i]` is the unknown that fact i belongs to."""
    n = len(contexts)
    sites = {"attention": lm.attention_out(hparams.layer), "mlp": lm.projection(hparams.layer)}
    problem = objective(lm, facts, owner, contexts, hparams.layer, keys=hparams.layers, outputs=sites)
    outputs = torch.stack([problem.prompts.outputs[name][::n] for name in sites], dim=1)

    def run(rows: Stage, delta: Float[Tensor, "rows sites d_model"]) -> Tensor:
        with rewrite({module: _shift(delta[:, site]) for site, module in enumerate(sites.values())}):
            return rows.run(lm)

    found = minimise(problem, run, outputs[leaders(owner)], hparams, rule=_rule)
    return collect(problem, found, outputs[:, 1], owner, site=1)


def _shift(delta: Float[Tensor, "rows d_model"]):
    """Adds delta at the cut, which is column 0."""
    return lambda output: torch.cat([output[:, :1] + delta[:, None], output[:, 1:]], dim=1)


def _rule(terms: Terms, loss: Float[Tensor, " unknowns"], hparams: Hparams) -> tuple[Tensor, Tensor]:
    """PMET's rule (its public code): once the target is said everywhere the likelihood weighs a tenth from then on,
    and a divergence of at most 0.01 is enough."""
    near = hparams.kl_factor * terms.kl <= 0.01
    return (loss < hparams.stop) | (terms.said & near), torch.where(terms.said, 0.1, 1.0)
