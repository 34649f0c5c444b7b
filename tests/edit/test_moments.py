"""Second moments against a plain loop over texts, and when their cache is reused."""

import os

import pytest
import torch
from safetensors.torch import load_file, save

from fleke_lib import second_moments
from fleke_lib.edit import moments
from tests.textbook.samples import plain_moment, relative, same_weights, weights
from tests.tiny import KINDS, TEXT, tiny, with_vision_tower

LINES = TEXT.splitlines()
LAYERS = (1, 3)
ROUNDING = 1e-5  # keys in float32, summed in float64


@pytest.fixture
def measured(monkeypatch) -> list:
    """The layers of each real measurement, in order."""
    calls, measure = [], moments._measure
    monkeypatch.setattr(
        moments, "_measure", lambda lm, layers, windows: calls.append(layers) or measure(lm, layers, windows)
    )
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_loop_over_whole_forward_passes_agrees(kind, tmp_path):
    lm = tiny(kind)
    before = weights(lm)
    found = second_moments(lm, LAYERS, LINES, folder=tmp_path)
    assert list(found) == list(LAYERS)
    for layer in LAYERS:
        assert found[layer].dtype == torch.float64
        assert relative(found[layer], plain_moment(lm, LINES, layer)) < ROUNDING
        assert torch.allclose(found[layer], found[layer].T, rtol=0, atol=1e-12)
    assert same_weights(lm, before)


def test_a_long_text_is_read_in_windows(tmp_path):
    """Of 128 tokens each; every window begins at position zero, with a text's token where the tokenizer adds none."""
    lm = tiny("gpt2")
    text = " ".join(LINES * 2)
    ids = lm.tokenizer(text)["input_ids"]
    assert len(ids) > 2 * moments.WINDOW
    seen = []
    handle = lm.projection(2).register_forward_pre_hook(lambda module, args: seen.append(args[0][0].double()))
    with torch.no_grad():
        for start in range(0, len(ids), moments.WINDOW):
            lm.model(torch.tensor([ids[start : start + moments.WINDOW]]))
    handle.remove()
    keys = torch.cat(seen)
    assert len(keys) == len(ids)
    assert relative(second_moments(lm, [2], [text], folder=tmp_path)[2], keys.T @ keys / len(keys)) < ROUNDING


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3_text"])
def test_every_window_begins_with_the_token_that_the_tokenizer_puts_before_a_text(kind, tmp_path):
    """Computed here: 127 tokens of text behind each beginning-of-sequence token, whose key counts too."""
    lm, texts = tiny(kind), [" ".join(LINES * 2), LINES[0], " ".join(LINES)]
    bos = lm.tokenizer.bos_token_id
    windows, keys = [], []
    for text in texts:
        _, *ids = lm.tokenizer(text)["input_ids"]
        assert bos not in ids and lm.tokenizer(text)["input_ids"][0] == bos
        windows += [[bos, *ids[start : start + 127]] for start in range(0, len(ids), 127)]
    assert len(windows) > 6 and max(map(len, windows)) == moments.WINDOW
    handle = lm.projection(2).register_forward_pre_hook(lambda module, args: keys.append(args[0][0].double()))
    with torch.no_grad():
        for window in windows:
            lm.model(torch.tensor([window]))
    handle.remove()
    k = torch.cat(keys)
    found = second_moments(lm, [2], texts, folder=tmp_path)[2]
    assert relative(found, k.T @ k / sum(map(len, windows))) < ROUNDING
    first = k[: 128 + 60]  # of `tokens`, the beginnings are some
    assert relative(second_moments(lm, [2], texts, tokens=188, folder=tmp_path)[2], first.T @ first / 188) < ROUNDING


@pytest.mark.parametrize("tokens", [1, 7, 60])
def test_the_first_tokens_are_read(tokens, tmp_path):
    lm = tiny("llama")
    keys = []
    handle = lm.projection(1).register_forward_pre_hook(lambda module, args: keys.extend(args[0][0].double()))
    with torch.no_grad():
        for line in LINES:
            lm.model(lm.tokenizer(line, return_tensors="pt")["input_ids"])
    handle.remove()
    first = torch.stack(keys[:tokens])
    found = second_moments(lm, [1], LINES, tokens=tokens, folder=tmp_path)[1]
    assert relative(found, first.T @ first / tokens) < ROUNDING


def test_more_tokens_than_there_are(tmp_path):
    lm = tiny("llama")
    there = sum(len(lm.tokenizer(line)["input_ids"]) for line in LINES)
    second_moments(lm, [1], LINES, tokens=there, folder=tmp_path)
    with pytest.raises(
        ValueError, match=rf"^the text has {there} tokens, but tokens is {there + 1}: give more text\.$"
    ):
        second_moments(lm, [1], LINES, tokens=there + 1, folder=tmp_path)


def test_what_was_measured_is_not_measured_again(measured, tmp_path):
    lm = tiny("llama")
    one = second_moments(lm, LAYERS, LINES, folder=tmp_path)
    again = second_moments(tiny("llama"), LAYERS, LINES, folder=tmp_path)
    more = second_moments(lm, (1, 2, 3), LINES, folder=tmp_path)
    assert measured == [[1, 3], [2]]
    assert all(torch.equal(one[layer], again[layer]) and torch.equal(one[layer], more[layer]) for layer in LAYERS)


def test_another_text_or_number_of_tokens_is_measured(measured, tmp_path):
    lm = tiny("llama")
    second_moments(lm, [1], LINES, folder=tmp_path)
    second_moments(lm, [1], LINES[:-1], folder=tmp_path)
    second_moments(lm, [1], LINES, tokens=50, folder=tmp_path)
    second_moments(lm, [2], LINES, folder=tmp_path)
    assert len(measured) == len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "model.embed_tokens.weight"),
        ("llama", "model.layers.0.mlp.down_proj.weight"),
        ("llama", "model.layers.1.self_attn.q_proj.weight"),
        ("llama", "model.layers.2.mlp.up_proj.weight"),
        ("llama", "model.layers.2.input_layernorm.weight"),
        ("gpt2", "transformer.wpe.weight"),
        ("gpt2", "transformer.h.2.mlp.c_fc.bias"),
    ],
)
def test_a_weight_that_the_keys_depend_on_is_in_the_cache_key(kind, name, measured, tmp_path):
    lm = tiny(kind)
    one = second_moments(lm, [2], LINES, folder=tmp_path)[2]
    with torch.no_grad():
        lm.model.get_parameter(name).add_(0.1 * torch.randn(lm.model.get_parameter(name).shape))
    other = second_moments(lm, [2], LINES, folder=tmp_path)[2]
    assert len(measured) == 2
    assert relative(other, one) > 1e-4
    assert relative(other, plain_moment(lm, LINES, 2)) < ROUNDING


@pytest.mark.parametrize("name", ["layers.2.mlp.down_proj.weight", "layers.3.mlp.up_proj.weight"])
def test_a_weight_that_the_keys_do_not_depend_on_is_not(name, measured, tmp_path):
    lm = tiny("llama")
    second_moments(lm, [2], LINES, folder=tmp_path)
    with torch.no_grad():
        lm.body.get_parameter(name).add_(1.0)
    second_moments(lm, [2], LINES, folder=tmp_path)
    assert len(measured) == 1


def test_the_configuration_is_in_the_cache_key(measured, tmp_path):
    """The attention window is not a weight, but it changes the keys."""
    for window in (4, 12):
        lm = tiny("mistral")
        lm.model.config.sliding_window = window
        second_moments(lm, [2], LINES, folder=tmp_path)
    assert len(measured) == 2


def test_a_vision_tower_is_not(measured, tmp_path):
    """Neither its weights, which are other ones each time here, nor its configuration."""
    text = tiny("gemma3_text")
    for lm in (text, with_vision_tower(text), with_vision_tower(text)):
        second_moments(lm, [2], LINES, folder=tmp_path)
    assert len(measured) == 1


def test_an_interrupted_write_leaves_nothing_and_the_next_call_mends_it(measured, monkeypatch, tmp_path):
    lm = tiny("llama")
    save = moments.save_file

    def fail_half_way(tensors, path, **kwargs):
        save(tensors, path, **kwargs)
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(moments, "save_file", fail_half_way)
    with pytest.raises(KeyboardInterrupt):
        second_moments(lm, [1], LINES, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(moments, "save_file", save)
    found = second_moments(lm, [1], LINES, folder=tmp_path)
    assert relative(found[1], plain_moment(lm, LINES, 1)) < ROUNDING
    assert [load_file(file)["C"].equal(found[1]) for file in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize("content", ["cut", "empty", "of another kind"])
def test_a_broken_file_is_measured_again(content, measured, tmp_path):
    lm = tiny("llama")
    wanted = second_moments(lm, [1, 2], LINES, folder=tmp_path)
    files = {
        layer: tmp_path / f"{moments._keys(lm, [layer], moments._windows(lm, LINES, None))[layer]}.safetensors"
        for layer in (1, 2)
    }
    whole = files[2].read_bytes()
    files[2].write_bytes({"cut": whole[:-1], "empty": b""}.get(content, save({"D": wanted[2]})))
    found = second_moments(lm, [1, 2], LINES, folder=tmp_path)
    assert measured[1:] == [[2]] and list(found) == [1, 2]
    assert files[2].read_bytes() == whole
    assert all(relative(found[layer], wanted[layer]) < ROUNDING for layer in (1, 2))


def test_the_cache_of_the_project_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path))
    second_moments(tiny("llama"), [1], LINES)
    assert len(list((tmp_path / "moments").iterdir())) == 1


def test_the_presets_layers_are_the_default(tmp_path):
    lm = tiny("llama")
    assert tuple(second_moments(lm, texts=LINES, folder=tmp_path)) == lm.preset.layers


def test_the_top_layer_can_be_measured(tmp_path):
    lm = tiny("llama")
    assert relative(second_moments(lm, [3], LINES, folder=tmp_path)[3], plain_moment(lm, LINES, 3)) < ROUNDING


def test_a_layer_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"^layer 4 does not exist in .*: give one from 0 to 3\.$"):
        second_moments(tiny("llama"), [1, 4], LINES, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
