"""Half precision gives the results of the same weights in float32, up to the rounding of states."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import fleke_lib as fleke
from fleke_lib.edit import alphaedit, finetune, memit, pmet, rome
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.mkv.pmet import pmet_mkvs
from fleke_lib.model.presets import AlphaEditHparams, FinetuneHparams, Hparams
from tests.textbook.samples import CONTEXTS, FACTS, cosine, random_mkvs, relative, same_weights, weights
from tests.tiny import tiny

LAYERS = (1, 2)
HPARAMS = Hparams(LAYERS, steps=6, lam=1.0)
METHODS = {
    memit: HPARAMS,
    pmet: HPARAMS,
    rome: replace(HPARAMS, layers=(2,)),
    alphaedit: AlphaEditHparams(LAYERS, nullspace=2.0),  # everything, where C is the identity
}
MODELS = (("llama", torch.bfloat16), ("gemma3_text", torch.bfloat16), ("gpt2", torch.float16))


@pytest.fixture(params=MODELS, ids=str)
def pair(request):
    """A model in half precision, and the same weights in float32."""
    kind, dtype = request.param
    half, full = tiny(kind), tiny(kind)
    half.model.to(dtype)
    full.model.to(dtype).float()
    before = weights(half)
    yield half, full
    assert same_weights(half, before)


def moments(lm):
    return {layer: torch.eye(lm.d_mlp, dtype=torch.float64) for layer in LAYERS}


@pytest.mark.parametrize("compute", [compute_mkvs, pmet_mkvs])
def test_mkvs_are_those_of_the_same_weights_in_float32(compute, pair):
    for one, other in zip(*(compute(lm, FACTS, CONTEXTS, HPARAMS) for lm in pair), strict=True):
        assert one.z.dtype == one.h.dtype == one.keys[1].dtype == torch.float32
        assert cosine(one.residual, other.residual) > 0.9
        assert one.loss == pytest.approx(other.loss, rel=0.02)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_edits_are_those_of_the_same_weights_in_float32(method, pair):
    half, full = pair
    mkvs = random_mkvs(full, FACTS, full.projection(2) if method is pmet else full.layers[2])
    edits = [method(lm, FACTS, mkvs, moments(lm), CONTEXTS, METHODS[method]) for lm in pair]
    for layer in edits[0].layers:
        assert relative(edits[0].delta(layer), edits[1].delta(layer)) < 0.1
    with edits[0].applied(half), edits[1].applied(full):
        one, other = (fleke.evaluate(lm, FACTS).per_fact["probability"] for lm in pair)
    assert np.allclose(one, other, rtol=0.2)


def test_fine_tuning_trajectories_and_traces_are_those_of_the_same_weights_in_float32(pair):
    _, full = pair
    one, other = (finetune(lm, FACTS, FinetuneHparams(2, steps=3)).delta(2) for lm in pair)
    assert one.dtype == torch.float32
    assert cosine(one.flatten(), other.flatten()) > 0.9
    mkvs = random_mkvs(full, FACTS[:1], full.layers[2])
    one, other = (fleke.trajectories(lm, FACTS[:1], mkvs, CONTEXTS, LAYERS)[0] for lm in pair)
    for layer in LAYERS:
        assert one.shares[layer].dtype == one.keys[layer].dtype == one.bystanders[layer].dtype == torch.float32
        assert relative(one.shares[layer], other.shares[layer]) < 0.05
        assert relative(one.keys[layer], other.keys[layer]) < 0.05
    one, other = (fleke.causal_trace(lm, FACTS[0], samples=2).scores for lm in pair)
    assert one.dtype == torch.float32 and torch.equal(one.isnan(), other.isnan())
    assert relative(one.nan_to_num(), other.nan_to_num()) < 0.2
