"""A federation small enough for tests: a tiny model, three relations of six facts, packets made once."""

import functools
from dataclasses import replace

import torch

from fleke_lib.facts.fact import Fact
from fleke_lib.federation.provider import VectorProvider
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.model.presets import Hparams
from tests.tiny import tiny

SUBJECTS = ("France", "Italy", "Japan", "Germany", "Brazil", "Ulm")
PROMPTS = {"P36": "The capital of {} is", "P37": "The language of {} is", "P30": "People in {} play the sport of"}
TARGETS = ("Rome", "Paris", "Tokyo", "Berlin")
LAYERS = (1, 2)


def facts() -> list[Fact]:
    return [
        Fact(subject, prompt, TARGETS[i % 4], TARGETS[(i + 1) % 4], relation, id=f"{relation}-{i}")
        for relation, prompt in PROMPTS.items()
        for i, subject in enumerate(SUBJECTS)
    ]


@functools.cache
def scenario():
    """The model, a provider that has computed every fact, and second moments."""
    lm = tiny("llama")
    memit = Hparams(LAYERS, steps=3, lam=1.0)
    preset = replace(lm.preset, memit=memit, contexts=("", "It was a day. "), trajectory_lam=100.0)
    lm = replace(lm, preset=preset)
    provider = VectorProvider(lm, lambda missing: compute_mkvs(lm, missing))
    provider(facts())
    return lm, provider, {layer: torch.eye(lm.d_mlp, dtype=torch.float64) for layer in LAYERS}
