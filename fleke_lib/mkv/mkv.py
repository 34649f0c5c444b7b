"""Mediator knowledge vectors (MKVs): states of the residual stream for which the model predicts the new target.

The MKV of a fact is `z = h + delta`. h is the state after layer L at the subject's last token, and delta minimises

    mean over contexts of -log P(target_new) + kl_factor * KL(P || P_0) + weight_decay * |delta| / |h|^2

subject to |delta| <= clamp * |h|. P and P_0 in the KL term are the predictions with and without delta at the subject's
last token in "{subject} is a". The optimiser is Adam; it stops when the loss is below `stop` (ROME, arXiv 2202.05262,
section 3.1; MEMIT, arXiv 2210.07229, equation 16 and public code). `Hparams.fast` names another one, which takes steps
of a fixed length along the gradient, each over two of the contexts.

Delta is added after layer L at one token. Nothing below L and nothing before that token depends on it. Each text is
therefore cut at the subject's last token. The tokens before it run once, and their keys and values are kept. The tokens
from it on run at every step, through the layers above L only. Facts of one batch have separate losses and stop
separately.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from fleke_lib.facts.contexts import check_contexts, contexts_for
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.facts.prompts import fact_texts
from fleke_lib.mkv.objective import Minimum, Objective, minimise, objective
from fleke_lib.model.language_model import LanguageModel, widened
from fleke_lib.model.post_norm import reachable
from fleke_lib.model.presets import Hparams

PACE = 0.22  # learning rate in units of h's median absolute entry: on the default model, the published 0.5
FAR = 1.0  # a loss above this after all steps: the target's tokens have a probability of about 0.4 or less


@dataclass(frozen=True, eq=False)
class Mkv:
    """One fact's mediator knowledge vector.

    z: wanted state after layer L at the subject's last token, `(d_model,)`.
    h: this state in the unchanged model, for the bare prompt, `(d_model,)`.
    keys: inputs of each edited layer's projection at this token, `{layer: (contexts, d_mlp)}`.
    loss: the objective at z, over the contexts of the last evaluation (by default all); steps: number of steps taken.
    """

    z: Float[Tensor, " d_model"]
    h: Float[Tensor, " d_model"]
    keys: dict[int, Float[Tensor, "contexts d_mlp"]] = field(default_factory=dict)
    loss: float = float("nan")
    steps: int = 0

    @property
    def residual(self) -> Float[Tensor, " d_model"]:
        """r = z - h."""
        return self.z - self.h

    def __repr__(self) -> str:
        share = float(self.residual.norm() / self.h.norm())
        return f"Mkv(|r|/|h| {share:.2f}, loss {self.loss:.3f} after {self.steps} steps, keys of layers {[*self.keys]})"


class Unconverged(UserWarning):
    """Most MKVs of a call have a loss above `FAR` after all steps."""


def compute_mkvs(
    lm: LanguageModel,
    facts: Sequence[Fact],
    contexts: tuple[str, ...] | None = None,
    hparams: Hparams | None = None,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    starts: Float[Tensor, "facts d_model"] | None = None,
    batch: int = 16,
    keys: Sequence[int] | None = None,
) -> list[Mkv]:
    """Compute the MKVs of facts for the model's current weights; warns if most did not converge.

    Args:
        contexts: prefixes, the first one `""`; the model's own by default.
        hparams: the preset's MEMIT hyperparameters by default; `lm.preset.memit.fast()` is for the fast variant.
        groups: indices of facts that get one common z because they have the same key (see `edit.memit`); by default
            every fact has its own z.
        starts: initial residuals, for instance predicted by an `EditMap`. A row of zeros is a cold start. For a group,
            the row of its first member is used. Zeros by default.
        batch: number of facts optimised together. It changes speed, memory and, through rounding, the last digits of
            results: float32 reductions are not batch-invariant.
        keys: layers whose keys are kept, the edited ones by default; they are by far the largest part of a result.

    Raises:
        ValueError: a layer is out of range, a text is longer than the context, or `starts` is not one finite row
            for each fact.

    Source: MEMIT's `compute_z`; the plain version, one fact at a time through the whole model, is in tests/textbook.
    """
    check_list(facts)
    starts = _checked(lm, facts, starts)

    def solve(members, owner, contexts, hparams):
        read = hparams.layers if keys is None else keys
        return _solve(lm, [facts[i] for i in members], owner, contexts, hparams, starts[members], read)

    return in_batches(solve, lm, facts, contexts, hparams or lm.preset.memit, groups, batch)


def check_mkvs(lm: LanguageModel, facts: Sequence[Fact], mkvs: Sequence[Mkv]) -> None:
    """Raises ValueError if the MKVs are not one finite MKV of width d_model for each fact."""
    check_list(facts)
    if len(mkvs) != len(facts):
        raise ValueError(f"there are {len(facts)} facts and {len(mkvs)} MKVs: give one MKV for each fact.")
    if wrong := {len(vector) for mkv in mkvs for vector in (mkv.z, mkv.h)} - {lm.d_model}:
        raise ValueError(
            f"an MKV is {min(wrong)} wide, but the states of {lm.name} are {lm.d_model} wide: "
            "give MKVs that were computed on this model."
        )
    for fact, mkv in zip(facts, mkvs, strict=True):
        if not (mkv.z.isfinite().all() and mkv.h.isfinite().all()):
            raise ValueError(
                f"the MKV of {fact.question!r} has entries that are not finite numbers: compute it again, or leave the "
                "fact out."
            )


def _checked(lm: LanguageModel, facts: Sequence[Fact], starts: Tensor | None) -> Float[Tensor, "facts d_model"]:
    if starts is None:
        return torch.zeros(len(facts), lm.d_model)
    if starts.shape != (len(facts), lm.d_model):
        raise ValueError(
            f"starts has the shape {tuple(starts.shape)}, but there are {len(facts)} facts and {lm.name} is "
            f"{lm.d_model} wide: give one residual for each fact."
        )
    if not starts.isfinite().all():
        raise ValueError("starts has entries that are not finite numbers: give zeros where a fact should start cold.")
    return starts


def in_batches(
    solve: Callable,
    lm: LanguageModel,
    facts: Sequence[Fact],
    contexts: tuple[str, ...] | None,
    hparams: Hparams,
    groups: Sequence[Sequence[int]] | None,
    batch: int,
) -> list[Mkv]:
    """MKVs in the order of `facts`, from `solve(members, owner, contexts, hparams)` for each batch of indices.

    `owner[i]` is the number of the unknown (group) that `members[i]` belongs to. Raises ValueError for a bad layer or
    an MKV that is not finite.
    """
    check_list(facts)
    contexts = check_contexts(contexts or contexts_for(lm))
    groups = [[i] for i in range(len(facts))] if groups is None else [list(group) for group in groups]
    for layer in hparams.layers:
        lm.check_layer(layer)
    found: dict[int, Mkv] = {}
    with tqdm(total=len(facts), desc="MKVs", unit="fact", leave=False) as bar:
        for part in _batches(lm, facts, groups, batch):
            members = [i for group in part for i in group]
            owner = torch.tensor([unknown for unknown, group in enumerate(part) for _ in group])
            mkvs = solve(members, owner, contexts, hparams)
            check_mkvs(lm, [facts[i] for i in members], mkvs)
            found |= dict(zip(members, mkvs, strict=True))
            bar.update(len(members))
    mkvs = [found[i] for i in range(len(facts))]
    warn_unconverged(mkvs, stacklevel=4)
    return mkvs


def warn_unconverged(mkvs: Sequence[Mkv], stacklevel: int) -> None:
    """Warn if more than half of these MKVs have a loss above `FAR`: even at z, the model does not say their targets.

    Single facts fail: on the default model, 1 of the 591 shipped MEMIT MKVs and 14 of the 50 shipped PMET MKVs.
    """
    far = sum(mkv.loss > FAR for mkv in mkvs)
    if 2 * far > len(mkvs):
        warnings.warn(
            f"{far} of {len(mkvs)} MKVs did not converge (their loss is above {FAR:g} after all steps): "
            "give hparams with more steps, another lr or other layers.",
            Unconverged,
            stacklevel=stacklevel,
        )


def _batches(
    lm: LanguageModel, facts: Sequence[Fact], groups: list[list[int]], batch: int
) -> Iterator[list[list[int]]]:
    """Batches of about `batch` facts, from groups of similar text length to limit padding."""

    def tokens_that_run(group):
        text = fact_texts(lm, facts[group[0]], ("",))[0]
        return len(text.ids) - text.subject[1]

    part: list[list[int]] = []
    for group in sorted(groups, key=tokens_that_run):
        part.append(group)
        if sum(map(len, part)) >= batch:
            yield part
            part = []
    if part:
        yield part


def _solve(
    lm: LanguageModel,
    facts: list[Fact],
    owner: Int[Tensor, " facts"],
    contexts: tuple[str, ...],
    hparams: Hparams,
    starts: Float[Tensor, "facts d_model"],
    keys: Sequence[int],
) -> list[Mkv]:
    """The MKVs of one batch; fact i belongs to unknown `owner[i]`."""
    layer, n = hparams.layer, len(contexts)
    problem = objective(lm, facts, owner, contexts, layer + 1, keys=keys, outputs={"mlp": lm.projection(layer)})
    bare = slice(0, None, n)  # the first row of each fact
    h, y = widened(problem.prompts.cut[bare]), widened(problem.prompts.outputs["mlp"][bare])
    leader = leaders(owner)
    found = minimise(
        problem,
        run=lambda rows, delta: rows.run(lm, shift=delta[:, 0]),
        initial=h[leader][:, None],
        hparams=hparams,
        project=lambda delta: reachable(lm, layer, y[leader], delta[:, 0])[:, None],
        start=starts.to(h)[leader][:, None],
        pace=PACE,
    )
    return collect(problem, found, h, owner, site=0)


def leaders(owner: Int[Tensor, " facts"]) -> Int[Tensor, " unknowns"]:
    """Index of the first fact of each unknown; the facts of one unknown have the same bare key and state."""
    return torch.stack([(owner == unknown).nonzero()[0, 0] for unknown in range(int(owner.max()) + 1)])


def collect(
    problem: Objective, found: Minimum, start: Float[Tensor, "facts d_model"], owner: Int[Tensor, " facts"], site: int
) -> list[Mkv]:
    """The MKV of each fact: h is its row of `start`, and z adds its unknown's delta at `site`."""
    contexts = len(problem.prompts.cut) // len(start)
    keys = {layer: widened(rows).unflatten(0, (len(start), contexts)) for layer, rows in problem.prompts.keys.items()}
    return [
        Mkv(
            z=start[i] + found.delta[unknown, site],
            h=start[i],
            keys={layer: key[i] for layer, key in keys.items()},
            loss=float(found.loss[unknown]),
            steps=int(found.steps[unknown]),
        )
        for i, unknown in enumerate(owner.tolist())
    ]
