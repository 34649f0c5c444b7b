"""The tokens of a subject, out of h and a key, without a list of candidates.

Threat model.

- They see: h and the mean key at the first edited layer, of one position: the subject's last token. Recovery that
  reads one token after the other (SipIt, arXiv 2510.15511) needs the state at every position, so it does not apply.
- They know: the public model, and the words before the subject or nothing. They have no list of subjects.

The search goes from subjects of one token to longer ones:

    last token     the nearest token of the whole vocabulary by h and key, behind a neutral word (`vocabulary`: one pass
                   of the lower layers, once for all packets)
    tokens before  tokens that the model itself finds likely: many as the first one, and fewer as each further one,
                   behind the prefixes that came nearest to h
    check          |h - h'| / |h| <= `subject.CERTAIN` proves the tokens, as in `subject`

On the default model this finds subjects of one token and few others. Two other ways to the tokens before the last one
were tried and left out. The gradient of |h - h'|^2 at another token orders the vocabulary little better than chance.
Ridge probes from h and the key, fitted on 40,000 tokens of ordinary text, had the token before the last one among
their first eight in 0.14 of cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from fleke_lib.facts.contexts import BOUNDARY
from fleke_lib.model.activations import Prefix, layer_calls, prefix_of, record
from fleke_lib.model.language_model import LanguageModel, widened
from fleke_lib.privacy.attacks.public import Views
from fleke_lib.privacy.attacks.subject import CERTAIN, Dictionary, subject_scores

NEUTRAL = "The"  # the word before each token of the vocabulary
ROWS = 256  # bodies that run at a time


@dataclass(frozen=True)
class Found:
    """The nearest tokens of a search. distance: |h - h'| / |h| of the packet's h from theirs."""

    tokens: tuple[int, ...]
    distance: float

    @property
    def certain(self) -> bool:
        return self.distance <= CERTAIN


@dataclass(frozen=True)
class Effort:
    """How far a search goes.

    last: how many last tokens are tried. first, further: how many tokens are tried as the first one, and as each
    further one behind each of `kept` prefixes. longest: the most tokens of a subject.
    """

    last: int = 1
    first: int = 1000
    further: int = 50
    kept: int = 4
    longest: int = 3


@torch.no_grad()
def vocabulary(lm: LanguageModel, layers: Sequence[int], before: str = NEUTRAL) -> Dictionary:
    """The views of every token of the vocabulary behind a neutral word, as a dictionary of candidates."""
    lm.check_unedited("the states of guessed tokens")
    start, n = _started(lm, lm.tokenizer(before).input_ids, max(layers))
    tokens = torch.arange(len(lm.embeddings.weight)).split(ROWS)
    parts = [_views(lm, start, n, torch.empty(1, 0, dtype=torch.long), part, layers) for part in tokens]
    found = Views(torch.cat([part.h for part in parts]), torch.cat([part.key for part in parts]))
    return Dictionary(tuple(map(str, range(len(found.h)))), (before,), (found,))


@torch.no_grad()
def invert(
    lm: LanguageModel,
    shown: Views,
    beginnings: Sequence[str],
    known: Dictionary,
    layers: Sequence[int],
    effort: Effort | None = None,
) -> list[Found]:
    """The tokens of each packet's subject that are nearest to its h; see `Found.certain`.

    Args:
        shown: of the packets, from `subject.seen`. More packets are centred better, see `subject.subject_scores`.
        beginnings: the words before each packet's subject, "" for none or if they are not known.
        known: from `vocabulary`.
        layers: the edited layers.

    Raises:
        ValueError: an edit is applied to the model.
    """
    lm.check_unedited("the states of guessed tokens")
    effort = effort or Effort()
    lasts = subject_scores(shown, known).topk(effort.last, dim=1).indices
    return [
        _search(lm, shown[i : i + 1], tuple(lm.tokenizer(before.rstrip(" ")).input_ids), lasts[i], layers, effort)
        for i, before in enumerate(beginnings)
    ]


def _search(
    lm: LanguageModel,
    shown: Views,
    before: tuple[int, ...],
    lasts: Int[Tensor, " last"],
    layers: Sequence[int],
    effort: Effort,
) -> Found:
    start, n = _started(lm, before, max(layers))
    bodies, best = torch.empty(1, 0, dtype=torch.long), Found((), float("inf"))
    for length in range(1, effort.longest + 1):
        far = []
        for part in bodies.split(ROWS):
            apart = (_views(lm, start, n, part, lasts, layers).h - shown.h).norm(dim=1) / shown.h.norm()
            far.append(apart.unflatten(0, (len(part), -1)))
        far = torch.cat(far)
        row, which = divmod(int(far.argmin()), len(lasts))
        best = min(best, Found((*bodies[row].tolist(), int(lasts[which])), float(far[row, which])), key=_distance)
        if best.certain or length == effort.longest:
            break
        kept = bodies[far.amin(1).topk(min(effort.kept, len(bodies)), largest=False).indices]
        likely = _likely(lm, before, kept, effort.first if length == 1 else effort.further)
        bodies = torch.cat([kept.repeat_interleave(likely.shape[1], 0), likely.reshape(-1, 1)], 1)
    return best


def _distance(found: Found) -> float:
    return found.distance


def _started(lm: LanguageModel, before: Sequence[int], layer: int) -> tuple[Prefix | None, int]:
    """Keys and values of the words before the subject up to `layer`, and the number of their tokens."""
    ids = torch.tensor([list(before)], dtype=torch.long)
    return prefix_of(lm, ids, torch.ones_like(ids), torch.arange(len(before))[None], layer + 1), len(before)


def _views(
    lm: LanguageModel,
    start: Prefix | None,
    n: int,
    bodies: Int[Tensor, "rows body"],
    lasts: Int[Tensor, " last"],
    layers: Sequence[int],
) -> Views:
    """The views of every body followed by every last token, behind n tokens; rows in this order."""
    (rows, length), top = bodies.shape, max(layers)
    every = torch.arange(rows).repeat_interleave(len(lasts))
    behind = start and start.rows(torch.zeros(rows, dtype=torch.long))
    where = torch.arange(n, n + length).expand(rows, -1)
    behind = prefix_of(lm, bodies, torch.ones(rows, n + length, dtype=torch.long), where, top + 1, behind)
    ids, whole = lasts.repeat(rows)[:, None], torch.ones(len(every), n + length + 1, dtype=torch.long)
    with record(inputs={"key": lm.projection(min(layers))}, outputs={"h": lm.layers[top]}) as seen:
        calls = layer_calls(
            lm, ids, whole, torch.full_like(ids, n + length), behind and behind.rows(every), start=top, stop=top + 1
        )
        calls.run(lm, stop=top + 1)
    return Views(*(widened(seen[name][:, -1]).cpu() for name in ("h", "key")))


def _likely(
    lm: LanguageModel, before: Sequence[int], bodies: Int[Tensor, "rows body"], count: int
) -> Int[Tensor, "rows count"]:
    """The most probable next tokens behind each body.

    A text starts after the token that separates documents, if the tokenizer has one.
    """
    boundary = lm.tokenizer.get_vocab().get(BOUNDARY)
    opening = torch.tensor([*([boundary] if boundary is not None else []), *before], dtype=torch.long)
    ids = torch.cat([opening.expand(len(bodies), -1), bodies], 1)
    logits = lm.model(input_ids=ids.to(lm.device)).logits[:, -1].cpu()
    return logits.topk(min(count, logits.shape[1]), dim=1).indices
