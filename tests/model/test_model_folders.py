"""Models in folders that are not whole: one sentence says which part is missing and how to mend it."""

import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fleke_lib.model import shipped
from fleke_lib.model.language_model import load_model
from tests.tiny import KINDS, tiny


def save(lm, folder):
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_its_tokenizer_is_refused(kind, tmp_path):
    tiny(kind).model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"' has no tokenizer that can be read: save it there as well, with \w+\.$"):
        load_model(tmp_path)


BREAK = {"cut": lambda path: os.truncate(path, 200), "empty": lambda path: os.truncate(path, 0), "gone": Path.unlink}


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("file, says", [("model.safetensors", "has no whole weights"), ("tokenizer.json", "tokenizer")])
def test_a_folder_with_a_broken_file_is_refused(file, says, how, tmp_path):
    save(tiny("llama"), tmp_path)
    load_model(tmp_path)
    BREAK[how](tmp_path / file)
    with pytest.raises(ValueError, match=rf"^'{tmp_path}' .*{says}.*: .* again\.$|tokenizer .*: save .*\.$") as error:
        load_model(tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def refused_in_the_cache(folder):
    wanted = f"{folder}, the default model in the cache, is not whole: delete it and run again."
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        load_model()


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """The folder of the default model in an empty cache."""
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path))
    return tmp_path / "models" / f"{shipped.NAME}-{shipped.SHA256[:12]}"


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_default_model_in_the_cache_is_named(file, how, cached):
    save(tiny("llama"), cached)
    BREAK[how](cached / file)
    refused_in_the_cache(cached)


def test_an_empty_folder_or_a_file_in_the_place_of_the_default_model_is_named(cached):
    cached.mkdir(parents=True)
    refused_in_the_cache(cached)
    cached.rmdir()
    cached.touch()
    refused_in_the_cache(cached)


# Weights that are missing or of another shape, which transformers would draw at random


def rewritten(folder, change):
    """Save a tiny model's tensors again after a change of their dictionary."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "part", ["embed_tokens", "embed_in", "wte", "norm", "ln_f", "down_proj", "c_proj", "fc_out", "dense_4h", "attn"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_that_is_not_in_the_file_is_named(kind, part, tmp_path):
    save(tiny(kind), tmp_path)
    names = [name for name in sorted(load_file(tmp_path / "model.safetensors")) if part in name]
    if not names:
        pytest.skip("this family calls it otherwise")
    rewritten(tmp_path, lambda tensors: tensors.pop(names[0]))
    wanted = rf"^'{tmp_path}' has no weights for (lm_head\.weight, )?{re.escape(names[0])}: write or copy them again\.$"
    with pytest.raises(ValueError, match=wanted):
        load_model(tmp_path)


def test_of_several_missing_tensors_the_first_is_named(tmp_path):
    save(tiny("llama"), tmp_path)

    def without_layer(tensors):
        for name in [name for name in tensors if ".layers.2." in name]:
            del tensors[name]

    rewritten(tmp_path, without_layer)
    with pytest.raises(
        ValueError, match=r"no weights for model\.layers\.2\.input_layernorm\.weight, .* and 7 more: write"
    ):
        load_model(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_nothing_asks_for_and_tied_ones_are_no_obstacle(kind, tmp_path):
    lm = tiny(kind)
    save(lm, tmp_path)
    rewritten(tmp_path, lambda tensors: tensors.update(another=torch.ones(3)))
    again = load_model(tmp_path).model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in lm.model.state_dict().items())


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_tensor_of_another_shape_is_refused(name, tmp_path):
    save(tiny("llama"), tmp_path)
    rewritten(tmp_path, lambda tensors: tensors.update({name: tensors[name][:-1].contiguous()}))
    wanted = rf"^'{tmp_path}' has weights of other shapes than its config\.json says: write or copy both again\.$"
    with pytest.raises(ValueError, match=wanted):
        load_model(tmp_path)


def test_the_default_model_in_the_cache_may_not_lack_a_tensor(cached):
    save(tiny("llama"), cached)
    rewritten(cached, lambda tensors: tensors.pop("model.norm.weight"))
    refused_in_the_cache(cached)


# GGUF files


@pytest.mark.parametrize("source", ["nowhere.gguf", "./no/such/folder/model.Q4_1.GGUF"])
def test_a_gguf_file_that_is_not_there_gets_one_sentence(source):
    with pytest.raises(ValueError, match=rf"^there is no file '{Path(source)}': give .* a GGUF file\.$"):
        load_model(source)


@pytest.mark.parametrize("data", [b"", b"hello", b"GGUF", b"GGUF\x03" + bytes(19), b"GGUF\x03" + bytes(range(200))])
def test_a_broken_gguf_file_gets_one_sentence(data, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(data)
    wanted = rf"^'{file}' could not be read as a GGUF file: download or write it again\.$"
    with pytest.raises(ValueError, match=wanted):
        load_model(file)


@pytest.mark.model
@pytest.mark.parametrize("length", [3_000_000, 90_000_000])
def test_a_gguf_file_that_is_cut_short_gets_one_sentence(length, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(shipped.gguf().read_bytes()[:length])
    with pytest.raises(ValueError, match=r"could not be read as a GGUF file: download or write it again\.$"):
        load_model(file)


@pytest.mark.model
@pytest.mark.slow
def test_the_default_models_gguf_file_loads_as_the_default_model(lm, tmp_path):
    """Under another name: all weights, the tokenizer, the preset and the fingerprint are the same."""
    file = tmp_path / "a model.gguf"
    os.symlink(shipped.gguf(), file)
    again = load_model(file)
    assert again.name == str(file)
    now = again.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in lm.model.state_dict().items())
    assert again.tokenizer("The capital of France is").input_ids == lm.tokenizer("The capital of France is").input_ids
    assert again.preset is lm.preset and again.fingerprint((1,)) == lm.fingerprint((1,))
    again.model.save_pretrained(tmp_path / "saved")
