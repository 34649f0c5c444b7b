"""Positions of the subject's tokens, for any tokenizer and any padding.

Positions are computed from character spans, never by searching for the subject's tokens. A subject is tokenised
differently at the start of a text, after a space and inside a word, and it may occur more than once. A prompt and its
target are encoded *together*: the target then has the tokens that the model would see in a text, with the space before
it and without a second beginning-of-text token.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fleke_lib.model.language_model import LanguageModel

Span = tuple[int, int]


@dataclass(frozen=True)
class Encoded:
    """A text as token ids, with the positions that editing needs.

    ids: token ids, with special tokens at the start and none at the end.
    subject: `(first, last)` positions of the tokens that overlap the subject, or None.
    target: position of the target's first token, which may contain the space before it; `len(ids)` without a target.
    """

    ids: tuple[int, ...]
    subject: tuple[int, int] | None
    target: int

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.ids[: self.target]

    @property
    def target_ids(self) -> tuple[int, ...]:
        return self.ids[self.target :]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str = "", subject: Span | None = None) -> Encoded:
    """Encode `prompt`, followed by a space and `target` if there is one.

    Args:
        prompt: text that ends right before the answer.
        target: the answer without a leading space.
        subject: character span of the subject in the prompt, `(start, end)`.

    Raises:
        ValueError: the span is empty or outside the prompt, or the prompt, target or subject has no token.
    """
    if subject is not None and not 0 <= subject[0] < subject[1] <= len(prompt):
        raise ValueError(
            f"the subject's span {subject} is not inside the prompt {prompt!r}: give start < end <= length."
        )
    text = f"{prompt} {target}" if target else prompt
    ids, spans = _ids_and_spans(tokenizer, text)
    start = len(ids)
    if target:
        start = next((i for i, (_, end) in enumerate(spans) if end > len(prompt)), len(ids))
        if start in (0, len(ids)) or not target.strip():
            raise ValueError(f"the prompt {prompt!r} or the target {target!r} comes to no token: give visible text.")
    return Encoded(tuple(ids), subject and _positions(spans, subject, prompt), start)


def encode_for(
    lm: LanguageModel, prompt: str, target: str = "", subject: Span | None = None, following: int = 0
) -> Encoded:
    """`encode` with a model's tokenizer, for a text that the model reads up to the target's last token.

    Args:
        following: number of further tokens that the model reads after the text.

    Raises:
        ValueError: as for `encode`, or the text is longer than the model's context.
    """
    text = encode(lm.tokenizer, prompt, target, subject)
    if len(text.ids) - bool(target) + following > context_length(lm):
        whole = f"{prompt} {target}" if target else prompt
        excerpt = whole if len(whole) <= 80 else f"{whole[:40]} ... {whole[-35:]}"
        more = f" and {following + 1} are to follow" if following else ""
        raise ValueError(
            f"the text {excerpt!r} has {len(text.ids)} tokens{more}, but {lm.name} reads at most "
            f"{context_length(lm)}: give a shorter text."
        )
    return text


def context_length(lm: LanguageModel) -> int:
    """The number of tokens that a model can read at once, from its configuration."""
    return getattr(lm.config, "max_position_embeddings", None) or sys.maxsize


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that a tokenizer puts before a text: none, or in many families a beginning-of-sequence one."""
    whole, bare = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    places = range(len(whole) - len(bare) + 1)
    return whole[: next((i for i in places if whole[i : i + len(bare)] == bare), 0)]


def answer_start(tokenizer: PreTrainedTokenizerBase, text: Encoded) -> int:
    """Position of the target's first token that is not a mere blank.

    Many tokenizers split " 1969" into " ", "1", "9", ...: the blank says nothing about which number follows.
    """
    places = range(text.target, len(text.ids))
    return next((i for i in places if tokenizer.decode([text.ids[i]]).strip()), text.target)


def listed(texts: Iterable[str], name: str) -> tuple[str, ...]:
    """The texts as a tuple. Raises ValueError if they are one text, whose letters would pass for texts, or no texts."""
    kept = (texts,) if isinstance(texts, str) or not isinstance(texts, Iterable) else tuple(texts)
    if kept == (texts,) or not all(isinstance(text, str) for text in kept):
        raise ValueError(f"{name} is {texts!r:.60}: give a list of texts.")
    return kept


def pad(
    rows: Sequence[Sequence[int]], filler: int, side: str = "right", length: int | None = None
) -> tuple[Int[Tensor, "rows tokens"], Int[Tensor, "rows tokens"], Int[Tensor, "rows tokens"]]:
    """Stack rows of token ids. Returns ids, attention mask (1: token, 0: padding) and positions without the padding.

    Args:
        filler: the id to pad with.
        side: "right" or "left", where the padding goes.
        length: width of the result; the longest row's by default.
    """
    width = max([len(row) for row in rows], default=0) if length is None else length
    ids = torch.full((len(rows), width), filler, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = 1
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def filler(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token id for padding. Padding is always masked, therefore any id works."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)


def _ids_and_spans(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Span]]:
    """Token ids and the character span of each; special tokens at the end are dropped."""
    if tokenizer.is_fast:
        coded = tokenizer(text, return_offsets_mapping=True)
        ids, spans = list(coded["input_ids"]), _apart([tuple(span) for span in coded["offset_mapping"]], text)
    else:
        ids = list(tokenizer(text)["input_ids"])
        spans = _spans_by_decoding(tokenizer, ids, text)
    while ids and spans[-1][0] == spans[-1][1] and ids[-1] in tokenizer.all_special_ids:
        ids.pop(), spans.pop()
    return ids, spans


def _apart(spans: list[Span], text: str) -> list[Span]:
    """Split a span that several byte tokens share (byte fallback in Unigram): each token gets its own character."""
    apart = []
    for (start, end), run in groupby(spans):
        tokens = len(list(run))
        own = [i for i in range(start, end) for _ in text[i].encode()]
        apart += [(i, i + 1) for i in own] if tokens == len(own) else [(start, end)] * tokens
    return apart


def _spans_by_decoding(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str) -> list[Span]:
    """Spans for a tokenizer without offsets, from the length of the decoded text after each token.

    A token that completes no character (a part of a multi-byte one) shares the character with the token that does.
    """
    ends = []
    for i in range(len(ids)):
        decoded = tokenizer.decode(ids[: i + 1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ends.append(min(len(decoded.rstrip("\ufffd")), len(text)))
    visible = [int(i not in tokenizer.all_special_ids) for i in ids]
    starts = [0, *ends[:-1]]
    return [(start, max(end, start + wide)) for start, end, wide in zip(starts, ends, visible, strict=True)]


def _positions(spans: list[Span], wanted: Span, prompt: str) -> tuple[int, int]:
    found = [i for i, span in enumerate(spans) if _overlaps(span, wanted)]
    if not found:
        raise ValueError(f"the subject {prompt[slice(*wanted)]!r} comes to no token: give visible text.")
    return found[0], found[-1]


def _overlaps(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
