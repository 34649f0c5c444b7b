"""Context prefixes: a fact should hold in the middle of a text, not only at its start.

MEMIT (arXiv 2210.07229, section 4.3 and its public code) averages an MKV's objective and a fact's key over the bare
prompt and over the prompt behind five short texts that the model itself writes. A prefix here ends with its blank, so
that `prefix + question` is the whole text; the first prefix is always `""`, the bare prompt.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import filler, pad

BOUNDARY = "<|endoftext|>"
STARTS = ("The", "Therefore", "Because", "I", "You")


def contexts_for(lm: LanguageModel) -> tuple[str, ...]:
    """The preset's contexts where it has some (so that shipped MKVs stay valid), else freshly written ones."""
    return lm.preset.contexts or write_contexts(lm)


def write_contexts(lm: LanguageModel, tokens: int = 10, seed: int = 0) -> tuple[str, ...]:
    """The bare prompt's empty prefix and one text of `tokens` tokens for each of five first words.

    Sampled under `seed` from the five most probable tokens, as in MEMIT's public code; behind the token that separates
    documents where the tokenizer has one, since a model that never saw a text begin without it writes nonsense.
    """
    boundary = BOUNDARY if BOUNDARY in lm.tokenizer.get_vocab() else ""
    rows = [lm.tokenizer(boundary + start).input_ids for start in STARTS]
    ids, mask, _ = pad(rows, filler(lm.tokenizer), side="left")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        out = lm.model.generate(
            ids.to(lm.device),
            attention_mask=mask.to(lm.device),
            do_sample=True,
            top_k=5,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=filler(lm.tokenizer),
        )
    texts = lm.tokenizer.batch_decode(out, skip_special_tokens=True)
    return ("", *(" ".join(text.split()) + ". " for text in texts))


def context_weights(contexts: int) -> Float[Tensor, " contexts"]:
    """Weights of a fact's keys: half for the bare prompt, half shared by the prefixed ones; they sum to one."""
    prefixed = contexts - 1
    if prefixed == 0:
        return torch.ones(1)
    return torch.tensor([0.5] + [0.5 / prefixed] * prefixed)


def check_contexts(contexts: tuple[str, ...]) -> tuple[str, ...]:
    """The contexts as a tuple. Raises ValueError where the first is not the bare prompt's."""
    if not contexts or contexts[0] != "":
        raise ValueError(f'contexts is {contexts!r}: give a tuple of prefixes whose first is "", the bare prompt.')
    return tuple(contexts)
