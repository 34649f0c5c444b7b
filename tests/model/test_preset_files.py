"""Presets in files: written and read whole, found in the model's folder or the cache, for their own weights only."""

import json
from dataclasses import replace

import pytest
import torch

from fleke_lib.model import LanguageModel, load_model
from fleke_lib.model.digest import weights_digest
from fleke_lib.model.preset_files import FILE, place_for, read_preset, write_preset
from fleke_lib.model.presets import PRESETS, Preset
from tests.tiny import tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path / "cache"))


def saved(lm: LanguageModel, folder) -> str:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return str(folder)


def tuned(lm: LanguageModel) -> Preset:
    """A preset for the model's weights, with a lambda that no other has."""
    size = (lm.model.config.model_type, lm.n_layers, lm.d_model, lm.d_mlp)
    memit = replace(lm.preset.memit, layers=(1, 2), lam=77.0)
    return replace(lm.preset, memit=memit, size=size, weights=(weights_digest(lm),), trajectory_lam=7.0)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_comes_back_as_it_was(preset, tmp_path):
    whole = replace(preset, weights=preset.weights or ("0" * 64,), memit=preset.memit.fast())
    assert read_preset(write_preset(tmp_path / "one.json", whole)) == whole


def test_it_is_found_beside_the_model(tmp_path):
    name = saved(tiny("gpt2"), tmp_path / "tiny")
    preset = tuned(load_model(name))
    assert place_for(name, preset) == tmp_path / "tiny" / FILE
    write_preset(place_for(name, preset), preset)
    assert load_model(name).preset == preset


def test_it_is_found_in_the_cache_under_any_name(tmp_path):
    name = saved(tiny("gpt2"), tmp_path / "tiny")
    preset = tuned(load_model(name))
    path = write_preset(place_for("somebody/tiny", preset), preset)
    assert path.is_relative_to(tmp_path / "cache")
    assert load_model(name).preset == preset


def test_other_weights_keep_their_preset(tmp_path):
    name, other = saved(tiny("gpt2"), tmp_path / "tiny"), saved(tiny("gpt2", seed=1), tmp_path / "other")
    preset = tuned(load_model(name))
    write_preset(tmp_path / "other" / FILE, preset)
    write_preset(place_for("somebody/tiny", preset), preset)
    assert load_model(other).preset.source == "generic: not tuned for this model"


def test_a_built_in_preset_for_these_weights_stays_in_force(tmp_path, monkeypatch):
    name = saved(tiny("gpt2"), tmp_path / "tiny")
    preset = tuned(load_model(name))
    monkeypatch.setitem(PRESETS, "tiny", replace(preset, source="built in"))
    write_preset(tmp_path / "tiny" / FILE, preset)
    assert load_model(name).preset.source == "built in"


def test_a_model_without_a_name_looks_for_no_file_where_it_is_loaded(tmp_path, monkeypatch):
    lm = tiny("gpt2")
    write_preset(tmp_path / FILE, tuned(lm))
    monkeypatch.chdir(tmp_path)
    from fleke_lib.model import wrap

    assert wrap(lm.model, lm.tokenizer).preset.source == "generic: not tuned for this model"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "fleke-preset-9"}, "is not a preset of this library"),
        ({"memit": {"layers": [2, 1]}}, "is not a whole preset .*in increasing order"),
        ({"memit": {"layers": [1], "lambda": 3}}, "is not a whole preset"),
        ({"extra": 1}, "is not a whole preset"),
    ],
)
def test_a_file_that_is_no_preset_is_named(change, said, tmp_path):
    lm = tiny("gpt2")
    path = write_preset(tmp_path / "one.json", tuned(lm))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"one\.json {said}"):
        read_preset(path)


def test_a_preset_for_no_weights_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="names no size or no weights"):
        write_preset(tmp_path / "one.json", PRESETS["gpt-j-6b"])
    assert not list(tmp_path.iterdir())


def test_moved_weights_are_other_weights(tmp_path):
    lm = tiny("gpt2")
    preset = tuned(lm)
    with torch.no_grad():
        lm.weight(0)[0, 0] += 1
    name = saved(lm, tmp_path / "moved")
    write_preset(tmp_path / "moved" / FILE, preset)
    assert load_model(name).preset != preset
