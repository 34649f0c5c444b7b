"""Text generation: greedy and sampled continuations of many prompts at once.

Prompts are padded on the left, which puts the next token of every row in the same column. The attention mask and the
positions keep the rows independent of each other. The model runs with transformers' own key-value cache.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from fleke_lib.model import tokens as tok
from fleke_lib.model.language_model import LanguageModel

ROWS_AT_ONCE = 64

Choose = Callable[[Float[Tensor, "rows vocabulary"], range, int], Int[Tensor, " rows"]]


def greedy(lm: LanguageModel, prompts: Sequence[str], tokens: int) -> list[str]:
    """Continue each prompt with up to `tokens` most likely tokens; a text ends before an end-of-text token.

    Returns the continuations without their prompts.

    Raises:
        ValueError: `tokens` is less than 1, a prompt is empty, `prompts` is one text instead of a list, a text would be
            longer than the model's context, or the model's predictions are not numbers.
    """
    return _continue(lm, prompts, tokens, lambda logits, rows, step: logits.argmax(1))


def sample(lm: LanguageModel, prompts: Sequence[str], tokens: int, top_k: int = 5, seed: int = 0) -> list[str]:
    """Continue each prompt with up to `tokens` tokens, each drawn from the `top_k` most likely ones.

    The default `top_k` is from ROME's public code. The text of a prompt depends on the seed and on the prompt's place
    in the list, not on the other prompts. Returns and raises as `greedy`.
    """
    draws = torch.rand(len(prompts), tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def choose(logits, rows, step):
        top = logits.topk(min(top_k, logits.shape[1]))
        reached = top.values.double().softmax(1).cumsum(1)
        draw = draws[rows.start : rows.stop, step, None].to(lm.device)
        return top.indices.gather(1, (draw > reached[:, :-1]).sum(1, keepdim=True)).squeeze(1)

    return _continue(lm, prompts, tokens, choose)


def end_tokens(lm: LanguageModel) -> set[int]:
    """Ids of all end-of-text tokens: the tokenizer's, and those of the model's generation settings (Llama-3 has three).

    Empty if there are none.
    """
    set_for = getattr(lm.model.generation_config, "eos_token_id", None)
    return {lm.tokenizer.eos_token_id, *(set_for if isinstance(set_for, (list, tuple)) else [set_for])} - {None}


@torch.no_grad()
def _continue(lm: LanguageModel, prompts: Sequence[str], tokens: int, choose: Choose) -> list[str]:
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}: ask for at least one.")
    ids = [tok.encode_for(lm, prompt, following=tokens - 1).ids for prompt in tok.listed(prompts, "prompts")]
    if () in ids:
        raise ValueError(f"prompt {ids.index(())} is empty: give the text that the model should continue.")
    batches = [range(i, min(i + ROWS_AT_ONCE, len(ids))) for i in range(0, len(ids), ROWS_AT_ONCE)]
    written = []
    with tqdm(total=len(batches) * tokens, desc="writing", unit="step", leave=False, delay=2) as bar:
        for batch in batches:
            written += _write(lm, [ids[i] for i in batch], batch, tokens, choose, bar)
    if not written:  # of no row, batch_decode makes one text
        return []
    return lm.tokenizer.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _write(
    lm: LanguageModel, rows: list[tuple[int, ...]], batch: range, tokens: int, choose: Choose, bar: tqdm
) -> list[list[int]]:
    """The new token ids of one batch of prompts, up to each row's end-of-text token."""
    ids, mask, positions = (part.to(lm.device) for part in tok.pad(rows, tok.filler(lm.tokenizer), side="left"))
    ends, cache, written = end_tokens(lm), transformers.DynamicCache(), []
    stops = torch.tensor(sorted(ends), dtype=torch.long, device=lm.device)
    running = torch.ones(len(rows), dtype=torch.bool, device=lm.device)
    for step in range(tokens):
        state = lm.body(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        logits = lm.model.get_output_embeddings()(state).float()
        if logits.isnan().any():
            raise ValueError(
                f"{lm.name} predicts nan instead of numbers: check its weights and edits, or load it in float32."
            )
        following = choose(logits, batch, step)
        written.append(following)
        running &= ~torch.isin(following, stops)
        bar.update(tokens - step if not running.any() else 1)
        if not running.any():
            break
        ids, positions = following[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
    columns = torch.stack(written, 1).tolist()
    return [list(takewhile(lambda token: token not in ends, row)) for row in columns]
