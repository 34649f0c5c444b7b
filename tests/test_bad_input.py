"""Bad input raises an error of one sentence with the wrong value and the remedy; nothing is partly applied."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import fleke_lib as fleke
from fleke_lib.edit import Edit, alphaedit, finetune, memit, pmet, rome
from fleke_lib.edit.downdate import factorise
from fleke_lib.edit.trajectories import shareable
from fleke_lib.evaluation import generation_quality, log_probs, metrics
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.baselines import collabedit
from fleke_lib.federation.packets.cost import costs
from fleke_lib.federation.packets.packet import pack
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.provider import VectorProvider
from fleke_lib.federation.retrieval.topics import question_embeddings
from fleke_lib.federation.warm_start import warm_starts
from fleke_lib.mkv import edit_map
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.mkv.pmet import pmet_mkvs
from fleke_lib.mkv.store import shipped_mkvs, stored_mkvs
from fleke_lib.model import generation
from fleke_lib.model.language_model import wrap
from fleke_lib.model.presets import PRESETS, AlphaEditHparams, FinetuneHparams, Hparams
from fleke_lib.ridge.solve import LowRank
from tests.federation.sample_packets import D_MLP, TAGS, mkv_of, packet_of, path_of
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


TAKE_FACTS = {
    **{m.__name__: lambda lm, facts, m=m: m(lm, facts, hparams=HPARAMS[m]) for m in HPARAMS},
    "compute_mkvs": compute_mkvs,
    "pmet_mkvs": lambda lm, facts: pmet_mkvs(lm, facts, hparams=Hparams(LAYERS)),
    "stored_mkvs": stored_mkvs,
    "shipped_mkvs": shipped_mkvs,
    "trajectories": lambda lm, facts: fleke.trajectories(lm, facts, []),
    "shareable": shareable,
    "same_key": fleke.facts.same_key,
    "evaluate": fleke.evaluate,
    "prepare_evaluation": metrics.prepare_evaluation,
    "free_decoding": metrics.free_decoding,
    "generation_quality": metrics.generation_quality,
    "references_from": metrics.references_from,
    "teach": lambda lm, facts: edit_map.teach(lm, facts, []),
    "bare_states": edit_map.bare_states,
    "collabedit": lambda lm, facts: collabedit(lm, [facts], [[]], moments(lm)),
    "partition": lambda lm, facts: partition(facts),
    "VectorProvider": lambda lm, facts: VectorProvider(lm)(facts),
    "warm_starts": lambda lm, facts: warm_starts(facts, (), TAGS),
    "costs": lambda lm, facts: costs(facts, 32, 64, LAYERS),
    "question_embeddings": question_embeddings,
}


@pytest.mark.parametrize("name", TAKE_FACTS)
def test_one_fact_or_a_text_in_place_of_a_list_of_facts(name, lm):
    refused(lambda: TAKE_FACTS[name](lm, FACTS[0]), "Fact 'The capital of France is'", "give a list of facts")
    refused(lambda: TAKE_FACTS[name](lm, "atlas"), "str 'atlas'", "give a list of facts")


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
    lm = replace(tiny("gpt2"), preset=PRESETS[{pmet: "gpt2-xl", alphaedit: "gpt-neox-20b"}[method]])
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_edit_that_is_not_finite_is_refused_when_made_or_loaded(bad, lm, tmp_path):
    good = LowRank(torch.ones(lm.d_model, 1), torch.ones(1, lm.d_mlp))
    edit = Edit({1: good, 2: LowRank(good.left.clone(), good.right.clone())}, lm.fingerprint(LAYERS))
    path = edit.save(tmp_path / "edit.safetensors")
    data = bytearray(path.read_bytes())
    data[-4:] = torch.tensor([bad]).numpy().tobytes()  # the last number of the last factor
    path.write_bytes(bytes(data))
    refused(lambda: Edit.load(path), str(path), "layer 2", "not finite")
    good.right[0, 5] = bad
    refused(lambda: Edit({1: good}, edit.fingerprint), "layer 1", "not finite")
    refused(lambda: edit.apply(lm), "layer 1", "not be finite", "float32")


def test_an_edit_that_overflows_the_models_precision_is_refused():
    lm = tiny("llama")
    lm.model.to(torch.float16)
    before = weights(lm)
    edit = Edit({1: LowRank(torch.ones(lm.d_model, 1), torch.full((1, lm.d_mlp), 1e5))}, lm.fingerprint((1,)))
    refused(lambda: edit.apply(lm), "layer 1", "float16", "wider type")
    assert same_weights(lm, before) and lm.edits == []


@pytest.mark.parametrize("method", LOCATING, ids=lambda method: method.__name__)
def test_moments_and_mkvs_that_are_not_finite(method, lm):
    mkvs, bad = random_mkvs(lm, FACTS, lm.layers[2]), moments(lm)
    bad[2][3, 3] = float("nan")  # as a damaged file of moments gives
    refused(lambda: method(lm, FACTS, mkvs, bad, CONTEXTS, HPARAMS[method]), "moments[2]", "not finite")
    mkvs[1].z[4] = float("inf")
    for call in (
        lambda: method(lm, FACTS, mkvs, moments(lm), CONTEXTS, HPARAMS[method]),
        lambda: fleke.trajectories(lm, FACTS, mkvs, CONTEXTS, LAYERS),
    ):
        refused(call, FACTS[1].question, "MKV", "not finite")


def test_a_model_whose_numbers_are_not_finite(tmp_path):
    """No MKV, moment, trajectory or edit comes out of it, and it generates no text."""
    lm, sound = tiny("llama"), tiny("llama")
    lm.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    mkvs = random_mkvs(sound, FACTS[:1], sound.layers[2])
    for compute in (compute_mkvs, pmet_mkvs):
        refused(lambda compute=compute: compute(lm, FACTS[:1], CONTEXTS, Hparams(LAYERS, steps=2)), "France", "finite")
    refused(lambda: fleke.second_moments(lm, LAYERS, ["Rome is."], folder=tmp_path), "layer 1", "not finite")
    assert not list(tmp_path.iterdir())
    refused(lambda: fleke.trajectories(lm, FACTS[:1], mkvs, CONTEXTS, LAYERS), "France", "not finite")
    for method in LOCATING:
        refused(lambda m=method: m(lm, FACTS[:1], mkvs, moments(lm), CONTEXTS, HPARAMS[m]), "not finite")
    refused(lambda: finetune(lm, FACTS, HPARAMS[finetune]), "layer 2", "nan")
    refused(lambda: generation.greedy(lm, ["Rome is"], 2), "nan", "float32")
    refused(lambda: generation.sample(lm, ["Rome is"], 2), "nan", "float32")


def test_a_damaged_file_of_moments_is_named(lm, tmp_path):
    fleke.second_moments(lm, (1,), ["Rome is."], folder=tmp_path)
    (file,) = tmp_path.iterdir()
    save_file({"C": torch.full((lm.d_mlp, lm.d_mlp), float("nan"), dtype=torch.float64)}, file)
    refused(lambda: fleke.second_moments(lm, (1,), ["Rome is."], folder=tmp_path), str(file), "not finite")


@pytest.mark.parametrize("what", ["keys", "shares", "C"])
def test_a_trajectory_or_its_moments_that_are_not_finite(what):
    path, C = path_of(0), {layer: torch.eye(D_MLP, dtype=torch.float64) for layer in (3, 5, 6)}
    {"keys": path.keys[5][0], "shares": path.shares[5], "C": C[5][0]}[what][7] = float("nan")
    for solve in (fleke.edit.trajectory, factorise):
        refused(lambda solve=solve: solve([path_of(1), path], C), "not finite")
    if what != "C":
        refused(lambda: pack(path, mkv_of(0), "ada", 0, {}), what, "not finite")


@pytest.mark.parametrize("method", HPARAMS, ids=lambda method: method.__name__)
@pytest.mark.parametrize(
    ("answer", "words"),
    [("Berlin", "1 questions have more than one answer"), ("Rome", "1 facts are in this edit more than once")],
)
def test_one_question_twice_in_an_edit_is_warned_of(method, answer, words, lm):
    facts, mkvs = [*FACTS[:2], replace(FACTS[0], target_new=answer)], random_mkvs(lm, FACTS[:2], lm.layers[2])
    rest = () if method is finetune else ([*mkvs, mkvs[0]], moments(lm), CONTEXTS)
    with pytest.warns(UserWarning, match=f"{words}.*'The capital of France is'") as caught:
        method(lm, facts, *rest, hparams=replace(HPARAMS[method], **({"steps": 1} if method is finetune else {})))
    assert len(caught) == 1 and caught[0].filename == __file__


def test_packets_whose_tags_show_one_question_twice_are_warned_of():
    C = {layer: torch.eye(D_MLP, dtype=torch.float64) for layer in (3, 5, 6)}
    one, other = packet_of(1), packet_of(2)
    for solve in (fleke.edit.trajectory, factorise):
        for packets, words in (
            ([one, other, replace(one, answer=other.answer)], "1 questions have more than one answer"),
            ([one, other, packet_of(1, "bob")], "1 facts are in this edit more than once"),
        ):
            with pytest.warns(UserWarning, match=f"{words}.*'{one.question[:12]}'") as caught:
                solve(packets, C)
            assert len(caught) == 1 and caught[0].filename == __file__


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
