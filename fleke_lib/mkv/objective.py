"""The objective of an MKV, evaluated for many unknowns at once, and its minimisation.

An *unknown* is one delta, for one fact or for a group of facts with the same key. A *site* is a module at which delta
is added: MEMIT has one (the residual stream), PMET two (attention and MLP output). The caller's `run` adds delta to the
model; everything else is common to MEMIT and PMET.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import Stage, essence_text, fact_texts, shortened, stage
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import Hparams, NormalisedGradient

Forward = Callable[[Stage, Float[Tensor, "rows sites d_model"]], Float[Tensor, "rows tokens d_model"]]


@dataclass(frozen=True)
class Terms:
    """The objective's data terms, one number per unknown.

    nll: mean over contexts of -log P(target_new), per target token.
    kl: KL(P || P_0) at "{subject} is a".
    said: every token of the target is the most probable one, in all contexts.
    """

    nll: Float[Tensor, " unknowns"]
    kl: Float[Tensor, " unknowns"]
    said: Bool[Tensor, " unknowns"]


@dataclass(frozen=True)
class Objective:
    """Staged texts of a batch of facts, and the unknown that each row and token belongs to.

    prompts: rows are facts x contexts; each ends with the target without its last token.
    essence: one row per fact, "{subject}" of "{subject} is a".
    before: log-probabilities P_0 after the essence rows in the unchanged model, `(facts, vocabulary)`.
    prompt_owner, essence_owner: the unknown that each row belongs to.
    token_row, token_place, token_target, token_weight: one entry for each target token of each row: its row, the
        column that predicts it (0 is the cut), its id and its weight. The weights of an unknown's tokens sum to one.
    contexts: number of rows of each fact.
    """

    lm: LanguageModel
    prompts: Stage
    essence: Stage
    before: Float[Tensor, "facts vocabulary"]
    prompt_owner: Int[Tensor, " rows"]
    essence_owner: Int[Tensor, " facts"]
    token_row: Int[Tensor, " tokens"]
    token_place: Int[Tensor, " tokens"]
    token_target: Int[Tensor, " tokens"]
    token_weight: Float[Tensor, " tokens"]
    contexts: int

    def terms(self, run: Forward, delta: Float[Tensor, "unknowns sites d_model"]) -> Terms:
        """The data terms at `delta`."""
        hidden = run(self.prompts, delta[self.prompt_owner])
        log_p = self.lm.logits(hidden[self.token_row, self.token_place]).float().log_softmax(-1)
        chosen = log_p.gather(1, self.token_target[:, None])[:, 0]
        owner = self.prompt_owner[self.token_row]
        missed = (chosen < log_p.detach().amax(-1)).float()

        now = self.lm.logits(run(self.essence, delta[self.essence_owner])[:, 0]).float().log_softmax(-1)
        kl = (now.exp() * (now - self.before)).sum(-1)

        def total(values, owners):
            return torch.zeros(len(delta), device=values.device).index_add(0, owners, values)

        facts_each = total(torch.ones_like(kl), self.essence_owner)
        return Terms(
            nll=total(-self.token_weight * chosen, owner),
            kl=total(kl, self.essence_owner) / facts_each,
            said=total(missed, owner) == 0,
        )

    def only(self, unknowns: Int[Tensor, " unknowns"]) -> "Objective":
        """The objective of a selection of unknowns, renumbered in the given order."""
        new = torch.full((int(self.essence_owner.max()) + 1,), -1, device=unknowns.device)
        new[unknowns] = torch.arange(len(unknowns), device=unknowns.device)
        facts = (new[self.essence_owner] >= 0).nonzero()[:, 0]
        part = self._rows((new[self.prompt_owner] >= 0).nonzero()[:, 0])
        return replace(
            part,
            essence=self.essence.rows(facts),
            before=self.before[facts],
            prompt_owner=new[part.prompt_owner],
            essence_owner=new[self.essence_owner[facts]],
        )

    def turn(self, number: int, prefixes: int | None) -> "Objective":
        """The objective over the bare prompt and the next `prefixes` prefixed contexts, after `number` such turns.

        All prefixes have been taken equally often after a full round. The essence is always in it.
        """
        others = self.contexts - 1
        if prefixes is None or prefixes >= others:
            return self
        chosen = torch.tensor([0, *(1 + (number * prefixes + i) % others for i in range(prefixes))])
        first = torch.arange(0, len(self.prompt_owner), self.contexts)[:, None]
        part = self._rows((first + chosen).flatten().to(self.prompt_owner.device))
        weight = part.token_weight * (self.contexts / len(chosen))
        return replace(part, token_weight=weight, contexts=len(chosen))

    def _rows(self, rows: Int[Tensor, " rows"]) -> "Objective":
        """A selection of the prompts' rows and their tokens."""
        number = torch.full((len(self.prompt_owner),), -1, device=rows.device)
        number[rows] = torch.arange(len(rows), device=rows.device)
        tokens = (number[self.token_row] >= 0).nonzero()[:, 0]
        return replace(
            self,
            prompts=self.prompts.rows(rows),
            prompt_owner=self.prompt_owner[rows],
            token_row=number[self.token_row[tokens]],
            token_place=self.token_place[tokens],
            token_target=self.token_target[tokens],
            token_weight=self.token_weight[tokens],
        )


def objective(
    lm: LanguageModel,
    facts: Sequence[Fact],
    owner: Int[Tensor, " facts"],
    contexts: tuple[str, ...],
    start: int,
    keys: Sequence[int] = (),
    outputs: dict | None = None,
) -> Objective:
    """Stage the texts of `facts` from layer `start` on; fact i belongs to unknown `owner[i]`."""
    texts = [text for fact in facts for text in fact_texts(lm, fact, contexts)]
    prompts = stage(lm, [shortened(text) for text in texts], start, keys, outputs)
    essence = stage(lm, [essence_text(lm, fact) for fact in facts], start)
    tokens = [
        (row, text.target + i - 1 - text.subject[1], token, 1 / len(text.target_ids))
        for row, text in enumerate(texts)
        for i, token in enumerate(text.target_ids)
    ]
    row, place, target, weight = (torch.tensor(column, device=lm.device) for column in zip(*tokens, strict=True))
    owner = owner.to(lm.device)
    prompt_owner = owner.repeat_interleave(len(contexts))
    with torch.no_grad():
        before = lm.logits(essence.run(lm)[:, 0]).float().log_softmax(-1)
    share = weight / (owner.bincount()[prompt_owner[row]] * len(contexts))
    return Objective(lm, prompts, essence, before, prompt_owner, owner, row, place, target, share, len(contexts))


@dataclass(frozen=True)
class Minimum:
    """The result of the minimisation for each unknown; `loss` is over the contexts of its last evaluation."""

    delta: Float[Tensor, "unknowns sites d_model"]
    loss: Float[Tensor, " unknowns"]
    steps: Int[Tensor, " unknowns"]


StopRule = Callable[[Terms, Float[Tensor, " unknowns"], Hparams], tuple[Tensor, Tensor]]


def under_stop(terms: Terms, loss: Float[Tensor, " unknowns"], hparams: Hparams) -> tuple[Tensor, Tensor]:
    """MEMIT's rule: an unknown has converged when its loss is below `stop`; the likelihood's weight is always one."""
    return loss < hparams.stop, torch.ones_like(loss)


def minimise(
    objective: Objective,
    run: Forward,
    initial: Float[Tensor, "unknowns sites d_model"],
    hparams: Hparams,
    project: Callable[[Tensor], Tensor] = lambda delta: delta,
    rule: StopRule = under_stop,
    start: Float[Tensor, "unknowns sites d_model"] | None = None,
    pace: float = 0.2,
) -> Minimum:
    """Minimise the objective of every unknown; converged unknowns are dropped from the later steps.

    `hparams.optimiser` says how: Adam by default.

    Args:
        initial: the vectors that delta is added to; they scale the decay and the ball |delta| <= clamp * |initial|.
        project: maps all deltas, after projection on the ball, to ones that the model can realise; the identity for all
            models except Gemma-3.
        rule: maps the terms and the loss to the converged unknowns (Boolean) and the likelihood's weight from now on.
        start: initial deltas, projected like those of every step; zeros by default.
        pace: the learning rate if `hparams.lr` is None, in units of the median absolute entry of `initial`. The median
            is taken for each vector, so that an unknown does not depend on the others. A mean would follow the few
            entries that are many times as large as all others in some models.
    """
    norm = initial.norm(dim=-1)
    unit = (initial.abs().median(dim=-1).values if hparams.lr is None else torch.ones_like(norm))[..., None]

    def allowed(delta: Tensor) -> Tensor:
        return project(delta * (hparams.clamp * norm / delta.norm(dim=-1)).clamp(max=1)[..., None])

    delta = torch.zeros_like(initial)
    if start is not None:
        warm = start.any(dim=-1).any(dim=-1)  # not the others: the projection of zero need not be exactly zero
        delta[warm] = allowed(start)[warm]
    scaled = (delta / unit).requires_grad_()  # no optimiser's steps depend on the unit of the gradient
    if hparams.optimiser is None:
        prefixes, advance = None, _adam(scaled, pace if hparams.lr is None else hparams.lr)
    else:
        prefixes, advance = (
            hparams.optimiser.prefixes,
            _along_gradient(scaled, hparams.optimiser, norm[..., None] / unit),
        )
    loss, steps = norm.new_full((len(initial),), float("nan")), torch.zeros(len(initial), dtype=torch.long)
    factor = torch.ones_like(loss)
    active, part = torch.arange(len(initial), device=initial.device), objective
    for evaluation in range(hparams.steps):
        here = unit[active] * scaled[active]
        terms = part.turn(evaluation, prefixes).terms(run, here)
        decay = hparams.weight_decay * (here.norm(dim=-1) / norm[active] ** 2).sum(-1)
        now = factor[active] * terms.nll + hparams.kl_factor * terms.kl + decay
        loss[active], steps[active.cpu()] = now.detach(), evaluation
        converged, factor[active] = rule(terms, now.detach(), hparams)
        if converged.any():
            active = active[~converged]
        if not len(active) or evaluation == hparams.steps - 1:
            break
        scaled.grad = None
        now[~converged].sum().backward()
        with torch.no_grad():
            frozen = scaled.clone()
            advance(evaluation)
            frozen[active] = (allowed(unit * scaled) / unit)[active]
            scaled.copy_(frozen)
        if converged.any():
            part = objective.only(active)
    return Minimum(unit * scaled.detach(), loss, steps)


def _adam(scaled: Tensor, lr: float) -> Callable[[int], None]:
    adam = torch.optim.Adam([scaled], lr=lr)
    return lambda number: adam.step()


def _along_gradient(scaled: Tensor, optimiser: NormalisedGradient, whole: Tensor) -> Callable[[int], None]:
    """Step `number` has the length `first * decay^number`, in units of `whole`."""

    def advance(number: int) -> None:
        scaled.sub_(optimiser.first * optimiser.decay**number * whole * normalize(scaled.grad, dim=-1))

    return advance
