"""Hyperparameters equal the published ones, and are found under every name of a model."""

import dataclasses

import pytest

from fleke_lib.model.presets import PRESETS, AlphaEditHparams, Hparams, preset_for

# Method and model, and the values of the public files that differ between them: layers, steps, learning rate, clamp,
# weight decay, weight of the divergence, lambda.
PUBLISHED = {
    ("gpt2-xl", "memit"): ((13, 14, 15, 16, 17), 20, 0.5, 0.75, 0.5, 0.0625, 20000),
    ("gpt2-xl", "rome"): ((17,), 20, 0.5, 4, 0.5, 0.0625, None),
    ("gpt-j-6b", "memit"): ((3, 4, 5, 6, 7, 8), 25, 0.5, 0.75, 0.5, 0.0625, 15000),
    ("gpt-j-6b", "rome"): ((5,), 20, 0.5, 4, 0.5, 0.0625, None),
    ("gpt-j-6b", "pmet"): ((3, 4, 5, 6, 7, 8), 30, 0.2, 0.75, 0.5, 1, 6000),
    ("gpt-neox-20b", "memit"): ((6, 7, 8, 9, 10), 20, 0.5, 0.8, 0.5, 0.0625, 6000),
    ("gpt-neox-20b", "pmet"): ((6, 7, 8, 9, 10), 30, 0.5, 0.8, 0.5, 0.8, 15000),
    ("llama-3-8b", "memit"): ((4, 5, 6, 7, 8), 25, 0.1, 0.75, 0.5, 0.0625, 15000),
    ("llama-3-8b", "alphaedit"): ((4, 5, 6, 7, 8), 25, 0.1, 0.75, 0.5, 0.0625, 15000),
}


@pytest.mark.parametrize(("model", "method"), PUBLISHED)
def test_published_values(model, method):
    hparams = getattr(PRESETS[model], method)
    layers, steps, lr, clamp, weight_decay, kl_factor, lam = PUBLISHED[model, method]
    assert hparams.layers == layers
    assert hparams.layer == layers[-1]
    assert (hparams.steps, hparams.lr, hparams.clamp) == (steps, lr, clamp)
    assert (hparams.weight_decay, hparams.kl_factor, hparams.stop) == (weight_decay, kl_factor, 0.05)
    assert lam is None or hparams.lam == lam


def test_alphaedit_has_its_own_two():
    hparams = PRESETS["llama-3-8b"].alphaedit
    assert (hparams.nullspace, hparams.ridge) == (2e-2, 10)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("gpt2-xl", "gpt2-xl"),
        ("openai-community/gpt2-xl", "gpt2-xl"),
        ("EleutherAI/gpt-j-6b", "gpt-j-6b"),
        ("EleutherAI/gpt-j-6B", "gpt-j-6b"),
        ("EleutherAI/gpt-neox-20b", "gpt-neox-20b"),
        ("meta-llama/Meta-Llama-3-8B", "llama-3-8b"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b-instruct"),
        ("/some where/models/gpt-j-6B", "gpt-j-6b"),
        ("../models/Meta-Llama-3-8B/", "llama-3-8b"),
    ],
)
def test_a_preset_is_found_by_the_last_part_of_a_name(name, key):
    assert preset_for(name, 48) is PRESETS[key]


@pytest.mark.parametrize(
    ("n_layers", "layers"),
    [(1, (0,)), (2, (0,)), (4, (0, 1)), (12, (1, 2, 3, 4, 5)), (30, (10, 11, 12, 13, 14)), (32, (11, 12, 13, 14, 15))],
)
def test_an_unknown_model_gets_a_generic_preset(n_layers, layers):
    preset = preset_for("somebody/gpt-j-6b-chat", n_layers)
    assert preset.model == "somebody/gpt-j-6b-chat"
    assert "generic" in preset.source
    assert preset.layers == layers
    assert preset.rome.layers == layers[-1:]


def test_only_a_generic_preset_has_relative_learning_rates():
    """Published values, and those of the default model, were found for one model and its sizes."""
    generic = preset_for("somebody/gpt-j-6b-chat", 12)
    assert generic.memit.lr is generic.rome.lr is generic.pmet.lr is generic.alphaedit.lr is None
    assert generic.alphaedit.nullspace is None
    for preset in PRESETS.values():
        methods = [preset.memit, preset.rome, preset.pmet, preset.alphaedit]
        assert all(hparams is None or hparams.lr in (0.1, 0.2, 0.5) for hparams in methods)
        assert preset.alphaedit is None or preset.alphaedit.nullspace == 0.02


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_preset_names_its_source_and_its_edited_layers(preset):
    assert preset.source
    assert preset.layers == preset.memit.layers
    assert len(preset.rome.layers) == 1
    assert preset.alphaedit is None or isinstance(preset.alphaedit, AlphaEditHparams)


@pytest.mark.parametrize("layers", [(), (3, 2), (2, 2, 3)])
def test_layers_out_of_order_get_one_sentence(layers):
    with pytest.raises(ValueError, match=r"layers is .*: give one or more different layers in increasing order"):
        Hparams(layers)


def test_presets_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["gpt2-xl"].memit.lam = 1.0
