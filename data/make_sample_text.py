"""Writes sample_text.jsonl: ordinary text that the default model itself produced, for the second moments C.

    python data/make_sample_text.py

Second moments need text like that which the model was trained on. Text from the model itself needs no licence but the
model's own (Apache-2.0). Every document continues one of the openings below, sampled under a seed at temperature 1 from
the most probable 95% (nucleus sampling).
"""

import json
import os
from itertools import product
from pathlib import Path

import torch
from tqdm import tqdm

from fleke_lib.model.language_model import load_model
from fleke_lib.model.tokens import filler, pad

TARGET = Path(__file__).with_name("sample_text.jsonl")
SEED, TOKENS, BATCH = 0, 224, 64
OPENINGS = [
    "The history of {} begins",
    "In a small town, people talk about {} because",
    "A short introduction to {}:",
    "Dear editor, I read your article about {} and",
]
TOPICS = [
    "music", "rivers", "medicine", "football", "cathedrals", "computers", "the sea", "painting", "bread", "railways",
    "mathematics", "birds", "the stock market", "vaccines", "chess", "volcanoes", "the theatre", "steel", "bees",
    "democracy", "the Moon", "cotton", "novels", "bridges", "coffee", "whales", "law", "photography", "winter", "gold",
    "schools", "glass", "maps", "diabetes", "horses", "radio", "tea", "forests", "aircraft", "sleep", "poetry", "salt",
    "elections", "robots", "the brain", "gardens", "ships", "dance", "climate", "clocks", "paper", "the heart",
    "languages", "cinema", "soil", "electricity", "museums", "rice", "planets", "wine", "cancer", "cities", "money",
    "friendship",
]  # fmt: skip


def main() -> None:
    lm = load_model()
    openings = [opening.format(topic) for opening, topic in product(OPENINGS, TOPICS)]
    batches = [openings[i : i + BATCH] for i in range(0, len(openings), BATCH)]
    texts = [text for i, batch in enumerate(tqdm(batches, unit="batch")) for text in continued(lm, batch, SEED + i)]
    half = TARGET.with_suffix(".half")
    half.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    os.replace(half, TARGET)
    print(f"{len(texts)} documents, {sum(len(lm.tokenizer(t).input_ids) for t in texts)} tokens in {TARGET.name}")


def continued(lm, openings: list[str], seed: int) -> list[str]:
    """Each opening with what the model writes after it."""
    ids, mask, _ = pad([lm.tokenizer(opening).input_ids for opening in openings], filler(lm.tokenizer), side="left")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        out = lm.model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=1.0, top_p=0.95, top_k=0, max_new_tokens=TOKENS,
            pad_token_id=filler(lm.tokenizer),
        )  # fmt: skip
    return lm.tokenizer.batch_decode(out, skip_special_tokens=True)


if __name__ == "__main__":
    main()
