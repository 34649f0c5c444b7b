"""Only a model whose MLP projections are plain matrices is wrapped: an edit adds to the weight and reads it back."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from fleke_lib.model.language_model import wrap
from tests.tiny import D_MLP, KINDS, tiny

peft_warns = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def with_lora(model):
    return get_peft_model(model, LoraConfig(target_modules=["down_proj"], r=2)).base_model.model


class Unpacking(nn.Module):
    """As a projection after torch's dynamic quantisation: its weight is a function."""

    def weight(self):
        return torch.zeros(32, D_MLP)


def unpacking(model):
    for layer in model.model.layers:
        layer.mlp.down_proj = Unpacking()
    return model


def each_projection(change):
    def changed(model):
        for layer in model.model.layers:
            change(layer.mlp.down_proj)
        return model

    return changed


def as_type(dtype):
    return lambda module: setattr(module, "weight", nn.Parameter(module.weight.to(dtype), requires_grad=False))


WEIGHTS = {  # of each kind of projection that is no plain matrix, how it is made and its class
    "that unpacks its weight": (unpacking, "test_projections.Unpacking"),
    "with an adapter": (with_lora, "peft.tuners.lora.layer.Linear"),
    "of integers": (each_projection(as_type(torch.int8)), "torch.nn.modules.linear.Linear"),
    "in eight bits with a scale elsewhere": (each_projection(as_type(torch.float8_e4m3fn)), "torch.nn.modules.linear"),
    "packed": (each_projection(lambda m: setattr(m, "weight", nn.Parameter(m.weight.view(-1, 1)))), "linear.Linear"),
    "transposed": (each_projection(lambda m: setattr(m, "weight", nn.Parameter(m.weight.T))), "linear.Linear"),
    "computed at each use": (each_projection(nn.utils.parametrizations.weight_norm), "ParametrizedLinear"),
}


@peft_warns
@pytest.mark.parametrize(("change", "kind"), WEIGHTS.values(), ids=WEIGHTS)
def test_a_projection_that_is_no_plain_matrix_gets_one_sentence(change, kind):
    lm = tiny("llama")
    with pytest.raises(ValueError, match=r"layer 0 is a .*, but edits need a dense .* d_model \(32\)") as error:
        wrap(change(lm.model), lm.tokenizer)
    assert kind in str(error.value)
    assert "\n" not in str(error.value)


@peft_warns
def test_an_adapter_that_was_merged_is_no_hindrance():
    lm = tiny("llama")
    merged = get_peft_model(lm.model, LoraConfig(target_modules=["down_proj"], r=2)).merge_and_unload()
    assert wrap(merged, lm.tokenizer).d_mlp == D_MLP


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_floating_type_is_wrapped(kind, dtype):
    lm = tiny(kind)
    assert wrap(lm.model.to(dtype), lm.tokenizer).weight(0).dtype == dtype
