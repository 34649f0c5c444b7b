"""PMET's MKVs: the outputs of attention and MLP are optimised together; only the MLP's is kept (arXiv 2308.08742)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import Stage
from fleke_lib.mkv.mkv import Mkv, collect, in_batches, leaders
from fleke_lib.mkv.objective import Terms, minimise, objective
from fleke_lib.model.activations import rewrite
from fleke_lib.model.language_model import LanguageModel, widened
from fleke_lib.model.presets import Hparams, chosen

PACE = 0.26  # learning rate in units of the output's median absolute entry: for the default model's MLP, 0.2


def pmet_mkvs(
    lm: LanguageModel,
    facts: Sequence[Fact],
    contexts: tuple[str, ...] | None = None,
    hparams: Hparams | None = None,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    batch: int = 16,
    keys: Sequence[int] | None = None,
) -> list[Mkv]:
    """Compute PMET's MKVs: one delta for the attention's output and one for the MLP's output at layer L are optimised.

    Only the MLP's is kept: `z` and `h` of the result are outputs of layer L's MLP, `(d_model,)`. Arguments as for
    `compute_mkvs`; the hyperparameters are the preset's for PMET by default.

    Raises:
        ValueError: a layer is out of range, or neither `hparams` nor the preset has hyperparameters for PMET.
    """
    hparams = chosen(hparams, lm.preset, "pmet")

    def solve(members, owner, contexts, hparams):
        read = hparams.layers if keys is None else keys
        return _solve(lm, [facts[i] for i in members], owner, contexts, hparams, read)

    return in_batches(solve, lm, facts, contexts, hparams, groups, batch)


def _solve(
    lm: LanguageModel,
    facts: list[Fact],
    owner: Int[Tensor, " facts"],
    contexts: tuple[str, ...],
    hparams: Hparams,
    keys: Sequence[int],
) -> list[Mkv]:
    """The MKVs of one batch; fact i belongs to unknown `owner[i]`."""
    n = len(contexts)
    sites = {"attention": lm.attention_out(hparams.layer), "mlp": lm.projection(hparams.layer)}
    problem = objective(lm, facts, owner, contexts, hparams.layer, keys=keys, outputs=sites)
    outputs = widened(torch.stack([problem.prompts.outputs[name][::n] for name in sites], dim=1))

    def run(rows: Stage, delta: Float[Tensor, "rows sites d_model"]) -> Tensor:
        with rewrite({module: _shift(delta[:, site]) for site, module in enumerate(sites.values())}):
            return rows.run(lm)

    found = minimise(problem, run, outputs[leaders(owner)], hparams, rule=_rule, pace=PACE)
    return collect(problem, found, outputs[:, 1], owner, site=1)


def _shift(delta: Float[Tensor, "rows d_model"]):
    """A function that adds delta to an output at the cut, which is column 0."""
    return lambda output: torch.cat([output[:, :1] + delta[:, None].to(output), output[:, 1:]], dim=1)


def _rule(terms: Terms, loss: Float[Tensor, " unknowns"], hparams: Hparams) -> tuple[Tensor, Tensor]:
    """PMET's rule, from its public code.

    While every target token is the most probable one in all contexts, the likelihood's weight in the next step is 0.1,
    and an unknown has also converged if its KL term is at most 0.01.
    """
    near = hparams.kl_factor * terms.kl <= 0.01
    return (loss < hparams.stop) | (terms.said & near), torch.where(terms.said, 0.1, 1.0)
