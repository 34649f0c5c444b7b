"""MEMIT (Meng et al., 2023, arXiv 2210.07229) as in kmeng01/memit: `compute_z`, `compute_ks`, `memit_main`."""

from typing import NamedTuple

import torch
from torch import Tensor

from tests.textbook import norm
from tests.textbook.reading import adding, averaged_key, context_keys, leaving, locate, locate_essence


def compute_z(lm, fact, contexts, hparams) -> Tensor:
    """z = h + delta of equation 16, at the output of layer L."""
    return optimise(lm, fact, contexts, hparams, lm.layers[hparams.layer])


def optimise(lm, fact, contexts, hparams, module) -> Tensor:
    """The wanted output of `module` at the last subject token; see `optimum`."""
    return optimum(lm, fact, contexts, hparams, module).z


class Optimum(NamedTuple):
    """The result of one fact's optimisation, its loss, and the number of steps."""

    z: Tensor
    loss: float
    steps: int


def optimum(lm, fact, contexts, hparams, module=None, begin=None) -> Optimum:
    """The wanted output of `module` (layer L) at the last subject token: its current output plus the optimised delta.

    Delta begins at zero, as published, or at `begin`.

    The loss is the mean over contexts of the target's negative log-likelihood per token, plus `kl_factor` times
    KL(edited || base) at "{subject} is a", plus `weight_decay * |delta| / |start|^2`. The gradient is taken once less
    than the loss is evaluated, and after each step delta is projected on the ball of radius `clamp * |start|`. If a
    norm follows the MLP and delta is added to the stream, delta is then replaced by what the norm can put out.
    """
    module = module or lm.layers[hparams.layer]
    start, output = leaving(lm, module, fact), leaving(lm, lm.projection(hparams.layer), fact)
    stream = module is lm.layers[hparams.layer]

    @torch.no_grad()
    def allowed(delta):
        project(delta, hparams.clamp * start.norm())
        if stream:
            delta.copy_(norm.reached(lm, hparams.layer, output, delta))

    delta = (torch.zeros_like(start) if begin is None else begin.clone()).requires_grad_()
    if begin is not None:
        allowed(delta)
    adam = torch.optim.Adam([delta], lr=hparams.lr)
    essence = essence_log_probs(lm, fact, {}).detach()
    for step in range(hparams.steps):
        nll = torch.stack([-target_log_probs(lm, fact, prefix, {module: delta}).mean() for prefix in contexts]).mean()
        kl = divergence(essence_log_probs(lm, fact, {module: delta}), essence)
        loss = nll + hparams.kl_factor * kl + hparams.weight_decay * delta.norm() / start.norm() ** 2
        if loss < hparams.stop or step == hparams.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        allowed(delta)
    return Optimum(start + delta.detach(), float(loss.detach()), step)


def fast_optimum(lm, fact, contexts, hparams) -> Optimum:
    """The same objective, one step after the other along its gradient; this way of minimising it is not published.

    Step t has the length `first * decay^t * |start|`. The loss of evaluation t is over the bare prompt and the next
    `prefixes` of the other contexts, in turn.
    """
    module, how = lm.layers[hparams.layer], hparams.optimiser
    start, output = leaving(lm, module, fact), leaving(lm, lm.projection(hparams.layer), fact)
    essence = essence_log_probs(lm, fact, {}).detach()
    delta, others = torch.zeros_like(start), 0
    for step in range(hparams.steps):
        seen = [contexts[0]]
        for _ in range(how.prefixes):
            seen.append(contexts[1 + others % (len(contexts) - 1)])
            others += 1
        delta = delta.detach().requires_grad_()
        loss = hparams.kl_factor * divergence(essence_log_probs(lm, fact, {module: delta}), essence)
        for prefix in seen:
            loss = loss - target_log_probs(lm, fact, prefix, {module: delta}).mean() / len(seen)
        loss = loss + hparams.weight_decay * delta.norm() / start.norm() ** 2
        if loss < hparams.stop or step == hparams.steps - 1:
            break
        (slope,) = torch.autograd.grad(loss, delta)
        delta = delta.detach() - how.first * how.decay**step * start.norm() * slope / slope.norm()
        project(delta, hparams.clamp * start.norm())
        delta = norm.reached(lm, hparams.layer, output, delta)
    return Optimum(start + delta.detach(), float(loss.detach()), step)


def target_log_probs(lm, fact, prefix: str, deltas: dict) -> Tensor:
    """Log-probability of each target token behind a context, `(target_tokens,)`."""
    ids, subject, target = locate(lm, fact, prefix)
    return log_probs_at_target(lm, ids, subject, target, deltas).gather(1, ids[0, target:, None]).squeeze(1)


def log_probs_at_target(lm, ids: Tensor, subject: int, target: int, deltas: dict) -> Tensor:
    """Log-probabilities of the whole vocabulary where the target's tokens are predicted."""
    with adding(deltas, subject):
        return lm.model(ids[:, :-1]).logits[0, target - 1 :].log_softmax(-1)


def essence_log_probs(lm, fact, deltas: dict) -> Tensor:
    """Log-probabilities of the vocabulary at the subject's last token of "{subject} is a"."""
    ids, subject = locate_essence(lm, fact)
    with adding(deltas, subject):
        return lm.model(ids).logits[0, subject].log_softmax(-1)


def divergence(now: Tensor, base: Tensor) -> Tensor:
    """KL(now || base): the public code hands the base's log-probabilities to `kl_div` as the input."""
    return (now.exp() * (now - base)).sum()


@torch.no_grad()
def project(delta: Tensor, radius: Tensor) -> None:
    if delta.norm() > radius:
        delta *= radius / delta.norm()


def memit(lm, facts, zs, contexts, hparams, moments) -> dict[int, Tensor]:
    """The weight change of each layer, `(d_model, d_mlp)` in float64 (equation 14, spread by equation 20).

    At every layer the keys and the current states at L are read again from the partly edited model. The model is as
    before when this returns.
    """
    module = lm.layers[hparams.layer]
    return spread(lm, facts, zs, contexts, hparams, moments, module, share=lambda m: 1 / m, carry=through_norm)


def through_norm(lm, facts, layer: int, wanted: Tensor) -> Tensor:
    """The changes of the MLP's outputs that bring about the wanted ones of the stream, one column a fact."""
    outputs = [leaving(lm, lm.projection(layer), fact) for fact in facts]
    return torch.stack([norm.carried(lm, layer, y, r) for y, r in zip(outputs, wanted.T, strict=True)], 1).double()


@torch.no_grad()
def spread(
    lm, facts, zs, contexts, hparams, moments, module, share, carry=lambda lm, facts, layer, wanted: wanted
) -> dict[int, Tensor]:
    """dW = share(m) R K^T (lambda C + K K^T)^-1 layer by layer, m of them still to go; R = z - what leaves `module`.

    `carry` turns the columns of share(m) R into changes of the MLP's outputs.
    """
    originals = {layer: lm.weight(layer).clone() for layer in hparams.layers}
    changes = {}
    try:
        for i, layer in enumerate(hparams.layers):
            keys = torch.stack([averaged_key(context_keys(lm, fact, contexts, layer)) for fact in facts], 1).double()
            now = torch.stack([leaving(lm, module, fact) for fact in facts], 1)
            residuals = (torch.stack(list(zs), 1) - now).double() * share(len(hparams.layers) - i)
            residuals = carry(lm, facts, layer, residuals)
            second = hparams.lam * moments[layer].double() + keys @ keys.T
            changes[layer] = torch.linalg.solve(second, keys @ residuals.T).T
            lm.weight(layer).copy_(originals[layer] + changes[layer].float())
    finally:
        for layer, original in originals.items():
            lm.weight(layer).copy_(original)
    return changes
