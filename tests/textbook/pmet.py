"""PMET (Li et al., 2024, arXiv 2308.08742) as in xpq-tech/PMET: `compute_zs`, `compute_ks`, `pmet_main`."""

import torch
from torch import Tensor

from tests.textbook.memit import (
    divergence,
    essence_log_probs,
    log_probs_at_target,
    project,
    spread,
)
from tests.textbook.reading import leaving, locate

SURE = 0.1  # factor of the likelihood once the target is the argmax everywhere (nll_loss_factor in the public code)
STILL = 0.01  # ... and the weighted divergence under which such a fact has converged


def compute_targets(lm, fact, contexts, hparams) -> tuple[Tensor, Tensor]:
    """The wanted outputs of the attention and the MLP of layer L: both deltas are optimised together.

    The loss is MEMIT's with a weight decay for each delta. Where every target token is the argmax in every context the
    public code stops if the weighted divergence is at most 0.01, and else weighs the likelihood by 0.1 *from the next
    step on*, until a target token is not the argmax any more.
    """
    modules = [lm.attention_out(hparams.layer), lm.projection(hparams.layer)]
    starts = [leaving(lm, module, fact) for module in modules]
    deltas = [torch.zeros_like(start, requires_grad=True) for start in starts]
    placed = dict(zip(modules, deltas, strict=True))
    adam = torch.optim.Adam(deltas, lr=hparams.lr)
    essence = essence_log_probs(lm, fact, {}).detach()
    factor = 1.0
    for step in range(hparams.steps):
        nll, is_argmax = likelihood(lm, fact, contexts, placed)
        kl = hparams.kl_factor * divergence(essence_log_probs(lm, fact, placed), essence)
        decay = sum(delta.norm() / start.norm() ** 2 for delta, start in placed_pairs(deltas, starts))
        loss = factor * nll + kl + hparams.weight_decay * decay
        if loss < hparams.stop or (is_argmax and kl <= STILL) or step == hparams.steps - 1:
            break
        factor = SURE if is_argmax else 1.0
        adam.zero_grad()
        loss.backward()
        adam.step()
        for delta, start in placed_pairs(deltas, starts):
            project(delta, hparams.clamp * start.norm())
    attention, mlp = (start + delta.detach() for delta, start in placed_pairs(deltas, starts))
    return attention, mlp


def placed_pairs(deltas, starts):
    return zip(deltas, starts, strict=True)


def likelihood(lm, fact, contexts, deltas: dict) -> tuple[Tensor, bool]:
    """Mean negative log-likelihood of the target over contexts, and whether it is the argmax in all of them."""
    losses, is_argmax = [], True
    for prefix in contexts:
        ids, subject, target = locate(lm, fact, prefix)
        log_probs = log_probs_at_target(lm, ids, subject, target, deltas)
        losses.append(-log_probs.gather(1, ids[0, target:, None]).mean())
        is_argmax = is_argmax and bool((log_probs.argmax(-1) == ids[0, target:]).all())
    return torch.stack(losses).mean(), is_argmax


def pmet(lm, facts, targets, contexts, hparams, moments) -> dict[int, Tensor]:
    """The weight change of each layer: MEMIT's solve with the MLP's residual at L spread by the square root of m."""
    module = lm.projection(hparams.layer)
    return spread(lm, facts, targets, contexts, hparams, moments, module, share=lambda m: m**-0.5)
