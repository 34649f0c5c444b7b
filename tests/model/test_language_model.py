"""One function loads every architecture, and the edited weight has one orientation in all of them."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModel, BertConfig, BertModel, GPT2LMHeadModel

from fleke_lib.model import shipped
from fleke_lib.model.activations import layer_calls, record
from fleke_lib.model.language_model import ARCHITECTURES, load_model, wrap
from fleke_lib.model.presets import PRESETS
from tests.tiny import D_MLP, D_MODEL, KINDS, tiny, with_vision_tower

each_kind = pytest.mark.parametrize("kind", KINDS)
model = functools.cache(tiny)  # for tests that do not change it
PROMPT = "The capital of France is"


def prompt_ids(lm):
    return torch.tensor([lm.tokenizer(PROMPT)["input_ids"]])


def save(lm, folder):
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def test_every_known_architecture_is_tested():
    assert {*KINDS, "gemma3"} == set(ARCHITECTURES)


@each_kind
def test_a_local_folder_loads_as_the_same_model(kind, tmp_path):
    lm = model(kind)
    folder = save(lm, tmp_path / "a model")
    again = load_model(folder)
    assert again.name == str(folder)
    assert load_model(str(folder)).arch == again.arch == lm.arch
    assert again.tokenizer(PROMPT)["input_ids"] == lm.tokenizer(PROMPT)["input_ids"]
    ids = prompt_ids(lm)
    assert torch.equal(again.model(ids).logits, lm.model(ids).logits)
    assert again.fingerprint((0, 3)) == lm.fingerprint((0, 3))
    assert again.model.dtype == torch.float32
    assert load_model(folder, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_gemma3_with_a_vision_tower_is_the_same_language_model(tmp_path):
    """Gemma-3 from 4B on; its weights lie one level deeper."""
    text = tiny("gemma3_text")
    lm = load_model(save(with_vision_tower(text), tmp_path))
    assert (lm.n_layers, lm.d_model, lm.d_mlp) == (4, D_MODEL, D_MLP)
    ids = prompt_ids(lm)
    with torch.no_grad():
        wanted = text.model(ids).logits
        torch.testing.assert_close(lm.model(ids).logits, wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(lm.logits(layer_calls(lm, ids, start=2).run(lm)), wanted, atol=1e-5, rtol=0)
    assert torch.equal(lm.weight(2), text.weight(2))
    assert lm.mlp_norm(2) is not None


@each_kind
def test_dimensions_and_parts(kind):
    lm = model(kind)
    assert (lm.n_layers, lm.d_model, lm.d_mlp) == (4, D_MODEL, D_MLP)
    assert len(lm.layers) == 4
    assert lm.embeddings is lm.model.get_input_embeddings()
    assert lm.device == torch.device("cpu")
    assert not lm.model.training
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert (lm.mlp_norm(1) is None) == (kind != "gemma3_text")
    assert repr(lm) == f"tiny-{kind}: 0M parameters, 4 layers, d_model 32, d_mlp 64, torch.float32 on cpu"


@each_kind
def test_logits_of_the_last_hidden_state_are_the_models(kind):
    lm = model(kind)
    ids = prompt_ids(lm)
    with torch.no_grad(), record(outputs={"top": lm.layers[-1]}) as seen:
        wanted = lm.model(ids).logits
    torch.testing.assert_close(lm.logits(seen["top"]), wanted, atol=1e-5, rtol=0)


@each_kind
def test_a_projection_is_its_weight_times_the_key(kind):
    """`output = W k (+ bias)`, W of (d_model, d_mlp), and the output is what joins the stream next."""
    lm = model(kind)
    for layer in range(lm.n_layers):
        module = lm.projection(layer)
        with record(inputs={"key": module}, outputs={"out": module}) as seen:
            lm.model(prompt_ids(lm))
        weight, bias = lm.weight(layer), getattr(module, "bias", None)
        assert weight.shape == (D_MODEL, D_MLP)
        wanted = seen["key"] @ weight.T + (0 if bias is None else bias)
        torch.testing.assert_close(seen["out"], wanted, atol=1e-5, rtol=0)


@each_kind
def test_the_parts_of_a_layer_add_up(kind):
    """What a layer adds to the stream is its attention's output and its MLP's, behind their norms in Gemma-3."""
    lm = model(kind)
    layer = lm.layers[1]
    attention, mlp = lm.attention_out(1), lm.mlp_norm(1) or lm.projection(1)
    if kind == "gemma3_text":
        attention = layer.post_attention_layernorm
    with record({"in": layer}, {"out": layer, "attention": attention, "mlp": mlp}) as seen:
        lm.model(prompt_ids(lm))
    torch.testing.assert_close(seen["out"], seen["in"] + seen["attention"] + seen["mlp"], atol=1e-5, rtol=0)


@each_kind
def test_writing_through_the_view_changes_the_model(kind):
    lm = tiny(kind)
    ids = prompt_ids(lm)
    before = lm.model(ids).logits
    change = torch.randn(D_MODEL, D_MLP, generator=torch.Generator().manual_seed(3))
    lm.weight(2).add_(change)
    with record(inputs={"key": lm.projection(2)}, outputs={"out": lm.projection(2)}) as seen:
        after = lm.model(ids).logits
    assert (after - before).abs().max() > 0.1
    old = model(kind)
    with record(outputs={"out": old.projection(2)}) as was:
        old.model(ids)
    torch.testing.assert_close(seen["out"] - was["out"], seen["key"] @ change.T, atol=1e-4, rtol=0)
    lm.weight(2).copy_(old.weight(2))
    assert torch.equal(lm.model(ids).logits, before)


@each_kind
def test_a_fingerprint_is_of_the_named_layers_and_of_all_weights(kind):
    lm = tiny(kind)
    before = lm.fingerprint((0, 1))
    assert len(before) == 64
    assert before == model(kind).fingerprint((0, 1))
    assert before != tiny(kind, seed=1).fingerprint((0, 1))
    assert before not in (lm.fingerprint((0,)), lm.fingerprint((1, 0)), lm.fingerprint((0, 2)))
    lm.weight(1)[D_MODEL - 1, D_MLP - 1] += 1e-6
    once = lm.fingerprint((0, 1))
    lm.weight(2)[0, 0] += 1
    assert len({before, once, lm.fingerprint((0, 1))}) == 3


def test_a_fingerprint_is_of_the_shape_too():
    assert tiny("llama").fingerprint((0,)) != tiny("llama", layers=5).fingerprint((0,))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_base_weights_are_those_before_the_first_edit(kind):
    lm = tiny(kind)
    fingerprint = lm.fingerprint((1,))
    base = lm.weight(1).clone()
    assert torch.equal(lm.base_weight(1), base)
    for value in (1.0, 2.0):
        lm.edits.append(SimpleNamespace(originals={1: lm.weight(1).clone()}))
        lm.weight(1).fill_(value)
    assert torch.equal(lm.base_weight(1), base)
    assert lm.base_weight(2) is lm.weight(2) or torch.equal(lm.base_weight(2), lm.weight(2))
    assert lm.fingerprint((1,), base=True) == fingerprint != lm.fingerprint((1,))
    assert repr(lm).endswith("2 edits applied")


@pytest.mark.parametrize("layer", [-1, 4])
@pytest.mark.parametrize("part", ["weight", "projection", "attention_out", "mlp_norm"])
def test_a_layer_out_of_range_gets_one_sentence(layer, part):
    with pytest.raises(ValueError, match=f"layer {layer} does not exist in tiny-gemma3_text: give one from 0 to 3"):
        getattr(model("gemma3_text"), part)(layer)


def test_an_unknown_architecture_gets_one_sentence(tmp_path):
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    bert = BertModel(config)
    bert.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'bert' model, but this library knows gemma3, .*, qwen2: add its paths"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="BertModel is a 'bert' model"):
        wrap(bert, None)


def test_a_model_without_an_mlp_output_projection_gets_one_sentence(tmp_path):
    lm = tiny("gpt2")
    for layer in lm.layers:
        layer.mlp = nn.Identity()
    with pytest.raises(ValueError, match=r"no MLP output projection at transformer\.h\.\*\.mlp\.c_proj: load"):
        wrap(lm.model, lm.tokenizer)
    headless = AutoModel.from_pretrained(save(tiny("llama"), tmp_path))
    with pytest.raises(ValueError, match="LlamaModel has no MLP output projection"):
        wrap(headless, lm.tokenizer)


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "nobody/nothing", "empty"])
def test_a_model_that_is_not_there_gets_one_sentence(source, tmp_path):
    source = tmp_path if source == "empty" else source
    with pytest.raises(ValueError, match="could not be read as a model: give 'SmolLM2-135M-Instruct', a name") as error:
        load_model(source)
    assert "\n" not in str(error.value)


def test_wrapping_turns_dropout_and_gradients_off():
    lm = tiny("gpt2")
    lm.model.train().requires_grad_(True)
    again = wrap(lm.model, lm.tokenizer, "openai-community/gpt2-xl")
    assert not again.model.training
    assert not again.weight(0).requires_grad
    assert again.preset.source.startswith("generic")  # the name is published, but not with four layers
    assert wrap(lm.model, lm.tokenizer).name == "gpt2"
    assert isinstance(again.model, GPT2LMHeadModel)


# The default model


@pytest.mark.model
def test_the_default_is_smollm2_as_it_ships(lm):
    assert shipped.gguf().stat().st_size == shipped.BYTES == 98_362_432
    assert lm.name == "SmolLM2-135M-Instruct"
    assert lm.model.config.model_type == "llama"
    assert (lm.n_layers, lm.d_model, lm.d_mlp, len(lm.embeddings.weight)) == (30, 576, 1536, 49_152)
    assert lm.model.get_output_embeddings().weight is lm.embeddings.weight
    assert lm.preset is PRESETS["smollm2-135m-instruct"]
    assert lm.model.dtype == torch.float32


@pytest.mark.model
@pytest.mark.parametrize(
    ("prompt", "answer", "probability"),
    [
        ("The capital of France is", " Paris", 0.77),
        ("The chemical symbol for gold is", " Au", 0.96),
        ("The author of Hamlet is William", " Shakespeare", 0.96),
    ],
)
def test_the_default_knows_facts(lm, prompt, answer, probability):
    with torch.no_grad():
        p = lm.model(torch.tensor([lm.tokenizer(prompt)["input_ids"]])).logits[0, -1].softmax(-1)
    assert lm.tokenizer.decode([p.argmax()]) == answer
    assert p.max().item() == pytest.approx(probability, abs=0.01)


@pytest.mark.model
def test_the_default_has_its_preset_under_any_name_and_a_tuned_one_not_under_its_own(lm):
    assert wrap(lm.model, lm.tokenizer, "another name").preset is lm.preset
    changed = copy.deepcopy(lm.model)
    changed.model.layers[20].self_attn.q_proj.weight[0, 0] += 1e-3
    tuned = wrap(changed, lm.tokenizer, lm.name)
    assert (tuned.preset.layers, tuned.preset.contexts) == ((10, 11, 12, 13, 14), None)
    wanted = "generic: not tuned for this model, which does not have the weights of SmolLM2-135M-Instruct"
    assert tuned.preset.source == wanted


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_default_in_half_precision_has_its_preset(lm, dtype):
    assert load_model(dtype=dtype).preset is lm.preset


@pytest.mark.model
@pytest.mark.slow
def test_the_default_can_be_saved_and_loaded(lm, tmp_path):
    again = load_model(save(lm, tmp_path / "SmolLM2-135M-Instruct"))
    assert again.fingerprint((10, 14)) == lm.fingerprint((10, 14))
    ids = prompt_ids(lm)
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, lm.model(ids).logits)
    assert again.tokenizer(PROMPT)["input_ids"] == lm.tokenizer(PROMPT)["input_ids"]
    assert again.preset is lm.preset


def test_a_device_without_float64_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="no float64"):
        load_model("no/such/model", device="mps")
