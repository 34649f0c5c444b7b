"""What an attacker computes on the public model: states and keys of guessed texts.

In a causal model the state at a subject's last token depends only on the tokens up to it. A guess is therefore a
beginning and a subject; what follows the subject does not matter. Texts with the same beginning run it only once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.model.activations import layer_calls, prefix_of, record
from fleke_lib.model.language_model import LanguageModel, widened
from fleke_lib.model.tokens import encode_for, filler, pad

ROWS = 128  # texts in one pass


@dataclass(frozen=True, eq=False)
class Views:
    """Of each text, what a packet shows of its fact: h after the last edited layer, and the key at the first one."""

    h: Float[Tensor, "texts d_model"]
    key: Float[Tensor, "texts d_mlp"]

    def __getitem__(self, rows) -> "Views":
        return Views(self.h[rows], self.key[rows])


@torch.no_grad()
def views(lm: LanguageModel, beginnings: Sequence[str], subjects: Sequence[str], layers: Sequence[int]) -> Views:
    """The views of the texts `beginning + subject`, at the subject's last token.

    A subject that is the first token of its text is an attention sink, whose state is like no other; it gets the
    beginning "The " instead.

    Args:
        beginnings: one for each subject, with its space at the end.
        layers: the edited layers.

    Raises:
        ValueError: there are not as many beginnings as subjects, or a model carries an edit.
    """
    lm.check_unedited("the states of guessed texts")
    if len(beginnings) != len(subjects):
        raise ValueError(f"there are {len(beginnings)} beginnings and {len(subjects)} subjects: give one for each.")
    texts = [_cut(lm, before, subject) for before, subject in zip(beginnings, subjects, strict=True)]
    order = sorted(range(len(texts)), key=lambda i: (beginnings[i], len(texts[i])))
    h, key = torch.empty(len(texts), lm.d_model), torch.empty(len(texts), lm.d_mlp)
    for first in range(0, len(order), ROWS):
        part = order[first : first + ROWS]
        h[part], key[part] = _run(lm, [texts[i] for i in part], min(layers), max(layers))
    return Views(h, key)


def _cut(lm: LanguageModel, before: str, subject: str) -> tuple[int, ...]:
    """Token ids up to the subject's last one."""
    text = encode_for(lm, before + subject, subject=(len(before), len(before) + len(subject)))
    if text.subject[1] == 0:
        return _cut(lm, "The ", subject)
    return text.ids[: text.subject[1] + 1]


def _run(lm: LanguageModel, texts: list[tuple[int, ...]], first: int, last: int) -> tuple[Tensor, Tensor]:
    shortest = min(map(len, texts)) - 1
    common = next((i for i in range(shortest) if len({text[i] for text in texts}) > 1), shortest)
    ids, mask, positions = pad([text[:common] for text in texts[:1]], filler(lm.tokenizer))
    prefix = prefix_of(lm, ids, mask, positions, last + 1)
    rests, own, places = pad([text[common:] for text in texts], filler(lm.tokenizer))
    whole = torch.cat([mask.expand(len(texts), -1), own], 1)
    behind = prefix and prefix.rows(torch.zeros(len(texts), dtype=torch.long, device=lm.device))
    with record(inputs={"key": lm.projection(first)}, outputs={"h": lm.layers[last]}) as seen:
        layer_calls(lm, rests, whole, places + common, behind, start=last, stop=last + 1)
    end = own.sum(1) - 1
    rows = torch.arange(len(texts))
    return tuple(widened(seen[name][rows, end.to(lm.device)]).cpu() for name in ("h", "key"))
