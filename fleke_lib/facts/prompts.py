"""The texts of a fact, cut at the subject's last token: the tokens before the cut run only once.

    prefix "The day was. " + question "The capital of France is" + target " Rome"
                          ... The capital of | France is Rome
                                             ^ the cut: the first token whose state an edit of this fact changes

Tokens before the cut are padded on the left; tokens from the cut on are padded on the right. The subject's last token
is therefore column 0 of every row that runs again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fleke_lib.facts.fact import Fact, check_list, normal_form
from fleke_lib.model.activations import LayerCalls, Prefix, layer_calls, prefix_of, record
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import Encoded, encode_for, filler, pad

ALIKE = 4  # rows that agree in this many first tokens are searched for a common beginning


@dataclass(frozen=True)
class Stage:
    """Rows of text that have run once and can run again, from one layer on and for the tokens from the cut on.

    calls: how the layers from `calls.start` on are called for the tokens from the cut on.
    cut: state that enters layer `calls.start` at the cut, `(rows, d_model)`.
    keys: input of each wanted layer's projection at the cut, `{layer: (rows, d_mlp)}`.
    outputs: outputs of other wanted modules at the cut, `{name: (rows, d_model)}`.
    """

    calls: LayerCalls
    cut: Float[Tensor, "rows d_model"]
    keys: dict[int, Float[Tensor, "rows d_mlp"]] = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)

    def run(self, lm: LanguageModel, shift: Float[Tensor, "rows d_model"] | None = None) -> Tensor:
        """The last layer's output, `(rows, tokens, d_model)`; `shift` is added to the entering state at the cut."""
        hidden = self.calls.hidden
        if shift is not None:
            hidden = torch.cat([hidden[:, :1] + shift[:, None].to(hidden), hidden[:, 1:]], dim=1)
        return self.calls.run(lm, hidden)

    def rows(self, index: Int[Tensor, " rows"]) -> "Stage":
        """A selection of rows to run, without their keys and outputs."""
        return Stage(self.calls.rows(index), self.cut[index])


def stage(
    lm: LanguageModel,
    texts: Sequence[Encoded],
    start: int,
    keys: Sequence[int] = (),
    outputs: dict | None = None,
    stop: int | None = None,
) -> Stage:
    """Run texts once through the layers below `stop` (default: all); record the calls of the tokens from the cut on.

    Args:
        texts: the texts to run, up to their last token; `shortened` drops a target's last token.
        start: the first layer whose calls are recorded.
        keys: layers whose projection input at the cut is wanted.
        outputs: modules whose output at the cut is wanted, by name.
    """
    cuts = [text.subject[1] for text in texts]
    ids, mask, positions = pad([text.ids[cut:] for text, cut in zip(texts, cuts, strict=True)], filler(lm.tokenizer))
    with record(inputs={layer: lm.projection(layer) for layer in keys}, outputs=outputs or {}) as seen:
        prefix, before = _before(lm, [text.ids[:cut] for text, cut in zip(texts, cuts, strict=True)], stop)
        positions = positions + torch.tensor(cuts)[:, None]
        calls = layer_calls(lm, ids, torch.cat([before, mask], dim=1), positions, prefix, start, stop)
    at_cut = {name: value[:, 0] for name, value in seen.items()}
    wanted = {layer: at_cut.pop(layer) for layer in keys}
    return Stage(calls, calls.hidden[:, 0], wanted, at_cut)


def _before(
    lm: LanguageModel, rows: Sequence[tuple[int, ...]], stop: int | None
) -> tuple[Prefix | None, Int[Tensor, "rows tokens"]]:
    """Keys and values of the tokens before the cuts, left-padded, and their mask; common beginnings run only once.

    Facts have their context prefixes and often the first words of their questions in common: half of all tokens.
    """
    starts = [row[:ALIKE] for row in rows]
    groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for row, start in zip(rows, starts, strict=True):
        groups.setdefault(start, []).append(row)
    shared = {start: _common(group) for start, group in groups.items()}
    group = torch.tensor([list(shared).index(start) for start in starts])
    ids, mask, positions = pad([*shared.values()], filler(lm.tokenizer), side="left")
    behind = prefix_of(lm, ids, mask, positions, stop)
    lengths = [len(shared[start]) for start in starts]
    rests = [row[length:] for row, length in zip(rows, lengths, strict=True)]
    ids, own, positions = pad(rests, filler(lm.tokenizer))
    mask = torch.cat([mask[group], own], dim=1)
    prefix = prefix_of(lm, ids, mask, positions + torch.tensor(lengths)[:, None], stop, behind and behind.rows(group))
    left = mask.argsort(dim=1, stable=True)[:, mask.shape[1] - int(mask.sum(1).max()) :]  # padding before the tokens
    return prefix and prefix.columns(left), mask.gather(1, left)


def _common(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest common beginning of all rows, which is that of the first and the last row in sorted order."""
    first, last = min(rows), max(rows)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def fact_texts(lm: LanguageModel, fact: Fact, contexts: Sequence[str]) -> list[Encoded]:
    """For each prefix: the prefix, the fact's question and its new target."""
    start, end = fact.subject_span
    return [
        encode_for(lm, prefix + fact.question, fact.target_new, (start + len(prefix), end + len(prefix)))
        for prefix in contexts
    ]


def bare_text(lm: LanguageModel, fact: Fact) -> Encoded:
    """The question alone."""
    return encode_for(lm, fact.question, subject=fact.subject_span)


def essence_text(lm: LanguageModel, fact: Fact) -> Encoded:
    """ "{subject} is a", up to the subject's last token: here the model's prediction should not change."""
    return up_to_cut(encode_for(lm, f"{fact.subject} is a", subject=(0, len(fact.subject))))


def up_to_cut(text: Encoded) -> Encoded:
    """The text up to its subject's last token."""
    end = text.subject[1] + 1
    return Encoded(text.ids[:end], text.subject, end)


def shortened(text: Encoded) -> Encoded:
    """The text without its last token, which the model predicts but does not need as input."""
    return Encoded(text.ids[:-1], text.subject, text.target)


def same_key(lm: LanguageModel, facts: Sequence[Fact]) -> list[list[int]]:
    """Indices of the facts, grouped by their tokens up to the subject's last one; each group may get one common z.

    Facts of one group have the same key at every layer for the bare prompt. Two answers to one question come into
    different groups, although they share the key: no z can give both. The order of the facts does not matter.
    """
    check_list(facts)
    answers: dict[str, set[str]] = {}
    for fact in facts:
        answers.setdefault(normal_form(fact.question), set()).add(normal_form(fact.target_new))
    groups: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for i, fact in enumerate(facts):
        text = bare_text(lm, fact)
        rank = sorted(answers[normal_form(fact.question)]).index(normal_form(fact.target_new))
        groups.setdefault((text.ids[: text.subject[1] + 1], rank), []).append(i)
    return list(groups.values())
