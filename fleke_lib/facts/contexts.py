"""Context prefixes: short texts before the prompt, since a fact should hold in the middle of a text too.

MEMIT (arXiv 2210.07229, section 4.3 and its public code) averages an MKV's objective and a fact's key over the bare
prompt and over the prompt after each of five short texts that the model itself writes. A prefix here ends with a space:
`prefix + question` is the whole text. The first prefix is always `""`, the bare prompt.
"""

from weakref import WeakKeyDictionary

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from fleke_lib.model.generation import end_tokens
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import filler, pad

BOUNDARY = "<|endoftext|>"
STARTS = ("The", "Therefore", "Because", "I", "You")


_WRITTEN: "WeakKeyDictionary[transformers.PreTrainedModel, tuple[tuple, tuple[str, ...]]]" = WeakKeyDictionary()


def contexts_for(lm: LanguageModel) -> tuple[str, ...]:
    """The preset's contexts, on which shipped MKVs depend, or those that the base model writes if the preset has none.

    They are written once and kept in memory as long as the base weights do not change. They are the same while edits
    are applied; so MKVs of the base model and keys of the edited model belong to the same contexts.
    """
    if lm.preset.contexts:
        return lm.preset.contexts
    by = (lm.fingerprint((), base=True), lm.model.dtype, lm.tokenizer)
    if lm.model not in _WRITTEN or _WRITTEN[lm.model][0] != by:
        with lm.base_weights():
            _WRITTEN[lm.model] = by, write_contexts(lm)
    return _WRITTEN[lm.model][1]


def write_contexts(lm: LanguageModel, tokens: int = 10, seed: int = 0) -> tuple[str, ...]:
    """The empty prefix and five texts, one for each word of `STARTS`, that the model continues by `tokens` tokens.

    Each token is sampled with `seed` from the five most probable ones, as in MEMIT's public code. If the tokenizer has
    a token that separates documents, the texts start after it: a model that was always trained with it writes nonsense
    otherwise.
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
            eos_token_id=sorted(end_tokens(lm)) or None,  # none of them is written among the first `tokens`
        )
    texts = lm.tokenizer.batch_decode(out, skip_special_tokens=True)
    return ("", *(" ".join(text.split()) + ". " for text in texts))


def context_weights(contexts: int) -> Float[Tensor, " contexts"]:
    """Weights of a fact's keys: one half for the bare prompt, the other half divided among the prefixed prompts.

    `contexts` is the number of all prompts, the bare one included. The weights sum to one. In float64.
    """
    prefixed = contexts - 1
    if prefixed == 0:
        return torch.ones(1, dtype=torch.float64)
    return torch.tensor([0.5] + [0.5 / prefixed] * prefixed, dtype=torch.float64)


def weighted_mean(keys: Float[Tensor, "*facts contexts width"]) -> Float[Tensor, "*facts width"]:
    """The mean over contexts with `context_weights`, in float64."""
    return torch.einsum("c,...cd->...d", context_weights(keys.shape[-2]).to(keys.device, torch.float64), keys.double())


def check_contexts(contexts: tuple[str, ...]) -> tuple[str, ...]:
    """The contexts as a tuple. Raises ValueError if the first is not `""`, the bare prompt's prefix."""
    if not contexts or contexts[0] != "":
        raise ValueError(f'contexts is {contexts!r}: give a tuple of prefixes whose first is "", the bare prompt.')
    return tuple(contexts)
