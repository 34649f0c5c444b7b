"""Bad input raises an error of one sentence with the wrong value and the remedy; nothing is partly applied."""

import json
from dataclasses import replace

import pytest
import torch

import fleke_lib as fleke
from fleke_lib.edit import Edit, alphaedit, finetune, memit, pmet, rome
from fleke_lib.evaluation import generation_quality, log_probs
from fleke_lib.facts.fact import Fact
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.mkv.pmet import pmet_mkvs
from fleke_lib.model import generation
from fleke_lib.model.language_model import wrap
from fleke_lib.model.presets import AlphaEditHparams, FinetuneHparams, Hparams
from fleke_lib.ridge.solve import LowRank
from tests.textbook.samples import CONTEXTS, FACTS, random_mkvs, same_weights, weights
from tests.tiny import tiny

LAYERS = (1, 2)
KIND = ("P36", FACTS[0].target_new)
HPARAMS = {
    memit: Hparams(LAYERS),
    pmet: Hparams(LAYERS),
    rome: Hparams(LAYERS[-1:]),
    alphaedit: AlphaEditHparams(LAYERS),
    finetune: FinetuneHparams(LAYERS[-1]),
}
LOCATING = [memit, pmet, rome, alphaedit]  # the methods that take MKVs, moments and contexts


def refused(call, *names: str) -> None:
    """`call` raises ValueError with one sentence, which has a remedy after a colon and contains all of `names`."""
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message, message
    assert ": " in message, message
    for name in names:
        assert name in message, message


@pytest.fixture
def lm():
    """A tiny model that must come out of the test as it went in: weights, edits and hooks."""
    made = tiny("llama")
    before = weights(made)
    yield made
    assert same_weights(made, before)
    assert made.edits == []
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.model.modules())


def moments(lm, layers=LAYERS):
    return {layer: torch.eye(lm.d_mlp, dtype=torch.float64) for layer in layers}


def test_a_subject_that_is_not_in_the_prompt():
    refused(lambda: Fact("France", "The capital of Italy is", "Rome", "Paris"), "The capital of Italy is", "{}")


def test_an_empty_target():
    refused(lambda: Fact("France", "The capital of {} is", "  ", "Paris"), "target_new", "France")


def test_a_target_that_is_the_truth():
    refused(lambda: Fact("France", "The capital of {} is", "Paris", " Paris"), "'Paris'", "France")


@pytest.mark.parametrize(
    "call",
    [
        lambda lm, text: log_probs(lm, text, text),
        lambda lm, text: generation.greedy(lm, text, 1),
        lambda lm, text: generation.sample(lm, text, 1),
        lambda lm, text: fleke.second_moments(lm, LAYERS, text),
        lambda lm, text: generation_quality(
            lm, [replace(FACTS[0], relation="P36", generation_prompts=["It is"])], references={KIND: text}
        ),
    ],
)
def test_one_text_in_place_of_a_list(call, lm):
    """Its letters would be taken for texts."""
    refused(lambda: call(lm, "a text"), "'a text'", "give a list of texts")


@pytest.mark.parametrize("content", ['{"a": 1}', "[1, 2]", '[{"a": 1}]', "no JSON", "[]"])
def test_a_file_that_is_not_counterfact(content, tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        fleke.load_facts(path)
    assert str(path) in str(caught.value) and "CounterFact" in str(caught.value)
    assert str(caught.value).endswith(".")


def test_records_of_counterfact_load(tmp_path):
    """The counterpart of the refusals above."""
    rewrite = {
        "prompt": "The capital of {} is",
        "subject": "France",
        "target_new": {"str": "Rome"},
        "target_true": {"str": "Paris"},
    }
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([{"case_id": 0, "requested_rewrite": rewrite}]))
    assert fleke.load_facts(path)[0] == replace(FACTS[0], id="0")


def test_a_model_without_an_mlp_output_projection():
    lm = tiny("llama")
    for layer in lm.layers:
        del layer.mlp.down_proj
    refused(lambda: wrap(lm.model, lm.tokenizer), "LlamaForCausalLM", "MLP output projection")


@pytest.mark.parametrize("method", HPARAMS, ids=lambda method: method.__name__)
def test_no_fact(method, lm):
    refused(lambda: method(lm, [], hparams=HPARAMS[method]), "no fact")


@pytest.mark.parametrize("method", HPARAMS, ids=lambda method: method.__name__)
@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_out_of_range(method, layer, lm):
    hparams = HPARAMS[method]
    wrong = replace(hparams, layer=layer) if method is finetune else replace(hparams, layers=(layer,))
    given = {} if method is finetune else {"contexts": CONTEXTS}
    refused(lambda: method(lm, FACTS, hparams=wrong, **given), f"layer {layer}", "0 to 3")
    if method is not finetune:  # nothing is left to be measured, where the layer would have been noticed
        given |= {"moments": moments(lm, (layer,)), "mkvs": random_mkvs(lm, FACTS, lm.layers[2])}
        refused(lambda: method(lm, FACTS, hparams=wrong, **given), f"layer {layer}", "0 to 3")


@pytest.mark.parametrize("compute", [compute_mkvs, pmet_mkvs])
def test_a_layer_out_of_range_for_mkvs(compute, lm):
    refused(lambda: compute(lm, FACTS, CONTEXTS, Hparams((1, 4))), "layer 4", "0 to 3")


@pytest.mark.parametrize("layers", [(), (2, 1), (1, 1)])
def test_layers_that_are_no_rising_sequence(layers):
    refused(lambda: Hparams(layers), str(layers), "increasing order")


@pytest.mark.parametrize("method", LOCATING, ids=lambda method: method.__name__)
@pytest.mark.parametrize("contexts", [("Then ",), ("Then ", "")])
def test_contexts_without_the_bare_prompt_first(method, contexts, lm):
    refused(lambda: method(lm, FACTS, contexts=contexts, hparams=HPARAMS[method]), str(contexts), "bare prompt")


@pytest.mark.parametrize("method", LOCATING, ids=lambda method: method.__name__)
def test_more_or_fewer_mkvs_than_facts(method, lm):
    mkvs = random_mkvs(lm, FACTS[:2], lm.layers[2])
    for facts in (FACTS, FACTS[:1]):
        refused(
            lambda facts=facts: method(lm, facts, mkvs, moments(lm), CONTEXTS, HPARAMS[method]),
            f"{len(facts)} facts",
            "2 MKVs",
        )


@pytest.mark.parametrize("method", LOCATING, ids=lambda method: method.__name__)
def test_mkvs_of_another_width(method, lm):
    mkvs = [Mkv(z=torch.ones(16), h=torch.zeros(16)) for _ in FACTS]
    refused(lambda: method(lm, FACTS, mkvs, moments(lm), CONTEXTS, HPARAMS[method]), "MKV", "16", "32")


@pytest.mark.parametrize("method", LOCATING, ids=lambda method: method.__name__)
def test_moments_that_lack_a_layer_or_have_another_width(method, lm):
    mkvs = random_mkvs(lm, FACTS, lm.layers[2])
    for wrong, name in (({0: moments(lm, (0,))[0]}, "layer"), ({layer: torch.eye(8) for layer in LAYERS}, "8")):
        refused(lambda wrong=wrong: method(lm, FACTS, mkvs, wrong, CONTEXTS, HPARAMS[method]), "moments", name)


@pytest.mark.parametrize("method", [pmet, alphaedit], ids=lambda method: method.__name__)
def test_a_method_that_nobody_has_published_hyperparameters_for(method):
    made = tiny("gpt2")
    lm = wrap(made.model, made.tokenizer, {pmet: "gpt2-xl", alphaedit: "gpt-neox-20b"}[method])
    refused(lambda: method(lm, FACTS, contexts=CONTEXTS), method.__name__, "give hparams")


def test_rome_with_several_layers(lm):
    refused(lambda: rome(lm, FACTS, contexts=CONTEXTS, hparams=Hparams(LAYERS)), "one layer", "(1, 2)")


def test_an_edit_of_another_model(lm, tmp_path):
    other = tiny("llama", seed=1)
    change = LowRank(torch.ones(other.d_model, 1), torch.ones(1, other.d_mlp))
    edit = Edit({1: change}, other.fingerprint((1,)))
    path = edit.save(tmp_path / "edit.safetensors")
    for one in (edit, Edit.load(path)):
        refused(lambda one=one: one.apply(lm), "another model", "tiny-llama")
        refused(lambda one=one: one.to_peft(lm, tmp_path / "adapter"), "another model", "tiny-llama")
    assert [file.name for file in tmp_path.iterdir()] == ["edit.safetensors"]


def test_a_change_of_the_wrong_shape(lm):
    """It is noticed in the second layer before the first is written."""
    good = LowRank(torch.ones(lm.d_model, 1), torch.ones(1, lm.d_mlp))
    bad = LowRank(torch.ones(lm.d_model, 1), torch.ones(1, 8))
    edit = Edit({1: good, 2: bad}, lm.fingerprint(LAYERS))
    refused(lambda: edit.apply(lm), "layer 2", "(1, 8)", "(32, 64)")


def test_an_edit_is_applied_to_all_its_layers_or_to_none(lm):
    """Ctrl-C in the middle of the second layer's write."""

    class Interrupting(LowRank):
        def dense(self):
            raise KeyboardInterrupt

    factors = torch.ones(lm.d_model, 1), torch.ones(1, lm.d_mlp)
    edit = Edit({1: LowRank(*factors), 2: Interrupting(*factors)}, lm.fingerprint(LAYERS))
    with pytest.raises(KeyboardInterrupt):
        edit.apply(lm)


def test_an_interrupted_computation_leaves_no_trace(lm, monkeypatch):
    """Ctrl-C in the middle of the second layer's solve."""
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return torch.zeros(len(arguments[0]), arguments[1].shape[1], dtype=torch.float64)

    monkeypatch.setattr("fleke_lib.ridge.solve.spd_solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        memit(lm, FACTS, random_mkvs(lm, FACTS, lm.layers[2]), moments(lm), CONTEXTS, HPARAMS[memit])
    assert len(calls) == 2
