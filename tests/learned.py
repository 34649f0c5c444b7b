"""Tiny models that have learned facts, saved as folders: what runs on a model that knows something needs one."""

from collections.abc import Sequence
from pathlib import Path

import torch

from fleke_lib.facts.fact import Fact
from tests.tiny import tiny


def learned(kind: str, facts: Sequence[Fact], place: Path, *, layers: int = 8, steps: int = 150) -> Path:
    """Train a tiny model on the facts' questions with their true answers, and save it in a folder."""
    lm = tiny(kind, layers=layers)
    lm.tokenizer.pad_token = lm.tokenizer.pad_token or lm.tokenizer.eos_token
    texts = [f"{fact.question} {fact.target_true}" for fact in facts] + ["The capital of France is Paris"]
    rows = lm.tokenizer(texts, padding=True, return_tensors="pt")
    optimiser = torch.optim.Adam(lm.model.parameters(), lr=3e-3)
    for parameter in lm.model.parameters():
        parameter.requires_grad_(True)
    for _ in range(steps):
        loss = lm.model(**rows, labels=rows.input_ids.masked_fill(rows.attention_mask == 0, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    lm.model.save_pretrained(place)
    lm.tokenizer.save_pretrained(place)
    return place
