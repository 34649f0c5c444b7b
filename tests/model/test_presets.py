"""Hyperparameters equal the published ones, and are found under every name of a model."""

import dataclasses

import pytest

from fleke_lib.model.presets import PRESETS, AlphaEditHparams, Hparams, generic_preset, preset_for

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
def test_a_preset_is_found_by_the_last_part_of_a_name_and_the_size(name, key):
    preset = PRESETS[key]
    assert preset_for(name, preset.size, lambda: OTHER) is preset
    for place, value in enumerate(("mistral", 12, 1024, 4096)):
        size = (*preset.size[:place], value, *preset.size[place + 1 :])
        other = preset_for(name, size, never)
        assert other.model == name and other.memit != preset.memit
        wanted = f"generic: not tuned for this model, which does not have the configuration of {preset.model}"
        assert other.source == wanted


OTHER = "0" * 64


def never() -> str:
    raise AssertionError("weights are hashed only where a preset is for certain weights of this size")


TUNED = PRESETS["smollm2-135m-instruct"]


@pytest.mark.parametrize("digest", TUNED.weights)
@pytest.mark.parametrize("name", ["", "a folder", "gpt2-xl", "../SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"])
def test_what_was_tuned_for_weights_is_theirs_under_any_name(name, digest):
    assert preset_for(name, TUNED.size, lambda: digest) is TUNED


@pytest.mark.parametrize(
    "name", ["SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "/tuned/smollm2-135m-instruct"]
)
def test_other_weights_under_its_name_are_not_tuned(name):
    preset = preset_for(name, TUNED.size, lambda: OTHER)
    assert preset.model == name and preset.contexts is None and preset.layers == (10, 11, 12, 13, 14)
    wanted = "generic: not tuned for this model, which does not have the weights of SmolLM2-135M-Instruct"
    assert preset.source == wanted
    other = preset_for(name, ("llama", 12, 576, 1536), never)
    assert other.source.endswith("does not have the configuration of SmolLM2-135M-Instruct")


@pytest.mark.parametrize(
    ("n_layers", "layers"),
    [(1, (0,)), (2, (0,)), (4, (0, 1)), (12, (1, 2, 3, 4, 5)), (30, (10, 11, 12, 13, 14)), (32, (11, 12, 13, 14, 15))],
)
def test_an_unknown_model_gets_a_generic_preset(n_layers, layers):
    preset = preset_for("somebody/gpt-j-6b-chat", ("gptj", n_layers, 4096, 16384), never)
    assert preset.model == "somebody/gpt-j-6b-chat"
    assert preset.source == "generic: not tuned for this model"
    assert preset.layers == layers
    assert preset.rome.layers == layers[-1:]


@pytest.mark.parametrize("preset", [*PRESETS.values(), generic_preset("somebody/small", 12)], ids=lambda one: one.model)
def test_romes_clamp_is_the_published_one(preset):
    assert preset.rome.clamp == 4.0 and preset.memit.clamp < 1


def test_only_a_generic_preset_has_relative_learning_rates():
    """Published values, and those of the default model, were found for one model and its sizes."""
    generic = preset_for("somebody/gpt-j-6b-chat", ("gptj", 12, 4096, 16384), never)
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
