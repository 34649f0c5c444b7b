"""The same federation in one process, and whether all weights are equal."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from fleke_lib.edit import Edit
from fleke_lib.edit.moments import second_moments
from fleke_lib.federation import ClientConfig, Part, Sealing, StoredProvider, run_fedit, weights
from fleke_lib.federation.retrieval.named import policy_named
from fleke_lib.model.language_model import LanguageModel


def compared(folder: Path, lm: LanguageModel, parts: Sequence[Part], secret: bytes, policy: str) -> tuple[int, float]:
    """How many hospitals have the weights of the run in one process, bit for bit, and that run's seconds."""
    begin, moments = time.monotonic(), second_moments(lm)
    provider, config = StoredProvider(lm, folder / "one-process"), ClientConfig(policy_named(policy))
    one = run_fedit(lm, parts, config, provider=provider, secret=secret, protection=Sealing())
    same = 0
    for part in parts:
        there = Edit.load(folder / f"{part.name}.memory" / "edit.safetensors")
        here = weights.cumulative(one, part.name, moments)
        same += all(torch.equal(there.delta(layer), here.delta(layer)) for layer in here.layers)
    return same, time.monotonic() - begin
