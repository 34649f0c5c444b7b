"""The memory against a plain loop over its rows, and against vectors that are added by hand in whole passes."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fleke_lib.edit import Edit, Memory, memory
from fleke_lib.edit.memory import similarities
from fleke_lib.edit.trajectories import trajectories
from fleke_lib.evaluation import evaluate, prepare_evaluation
from fleke_lib.evaluation.likelihood import log_probs, prepare, score
from fleke_lib.facts.fact import Fact, Neighbour
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.model.generation import end_tokens, greedy
from tests.federation.sample_packets import D_MLP, LAYERS, mkv_of, packet_of, path_of
from tests.textbook.samples import CONTEXTS, HPARAMS, relative, same_weights, weights
from tests.tiny import KINDS, TEXT, WILD, tiny

FACTS = (
    Fact(
        "France",
        "The capital of {} is",
        "Rome",
        "Paris",
        paraphrases=("What is the language of France", "The city of Ulm, and the capital of France"),
        neighbours=(Neighbour("The capital of Italy is", "Berlin"), Neighbour("The capital of Japan is", "Tokyo")),
    ),
    Fact("Hamlet", "The author of {} is", "Goethe", "Shakespeare", paraphrases=("It is Hamlet, and the author is",)),
    Fact("LeBron James", "{} plays the sport of", "football", "basketball"),
)
PROMPTS = [FACTS[0].question, FACTS[1].question, "The author of Hamlet is given to the people of France, not to"]
READ, AFTER = HPARAMS.layers


def made(lm, threshold: float = 0.6, size: float = 3.0) -> Memory:
    """A memory of `FACTS` with random residuals, `size` times as long as the states."""
    generator = torch.Generator().manual_seed(0)
    mkvs = compute_mkvs(lm, FACTS, CONTEXTS, replace(HPARAMS, steps=0), keys=())
    wanted = [Mkv(m.h + size * m.h.norm() * unit(torch.randn(len(m.h), generator=generator)), m.h) for m in mkvs]
    return memory(trajectories(lm, FACTS, wanted, CONTEXTS, HPARAMS.layers), threshold)


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm()


def recalled(table: Memory, key: torch.Tensor) -> torch.Tensor | None:
    """The gate as a plain loop over the rows, in float64."""
    best, value = -2.0, None
    for row, residual in zip(table.keys.double(), table.values, strict=True):
        cosine = float(row @ key.double() / row.norm() / key.double().norm())
        if cosine > best:
            best, value = cosine, residual
    return value if best > table.threshold else None


@torch.no_grad()
def by_hand(lm, table: Memory, ids: list[int]) -> tuple[torch.Tensor, list[int]]:
    """Logits of one text in a whole pass with the vectors added by a hook, and the tokens that recall something."""
    seen = []
    note = lm.projection(READ).register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    lm.model(torch.tensor([ids]))
    note.remove()
    changes = [recalled(table, key) for key in seen[0]]

    def add(module, args, output):
        state = (output[0] if isinstance(output, tuple) else output).clone()
        for token, change in enumerate(changes):
            if change is not None:
                state[0, token] += change.to(state)
        return (state, *output[1:]) if isinstance(output, tuple) else state

    handle = lm.layers[AFTER].register_forward_hook(add)
    logits = lm.model(torch.tensor([ids])).logits[0]
    handle.remove()
    return logits, [token for token, change in enumerate(changes) if change is not None]


def test_the_gate_is_the_nearest_row_above_the_threshold():
    generator = torch.Generator().manual_seed(0)
    table = memory([packet_of(seed) for seed in range(7)], threshold=0.3)
    keys = torch.randn(40, D_MLP, generator=generator) + 2 * table.keys[torch.arange(40) % 7]
    found, fired = table.recall(keys), 0
    for key, change in zip(keys, found, strict=True):
        wanted = recalled(table, key)
        fired += wanted is not None
        assert torch.equal(change, torch.zeros_like(change) if wanted is None else wanted)
    assert 5 < fired < 35
    assert torch.equal(table.recall(keys.unflatten(0, (8, 5))), found.unflatten(0, (8, 5)))


@pytest.mark.parametrize("kind", [*KINDS, WILD])
def test_applied_adds_the_residual_where_the_key_is_near(kind):
    lm = tiny(kind)
    table, before = made(lm), weights(lm)
    for prompt in PROMPTS:
        ids = lm.tokenizer(prompt)["input_ids"]
        wanted, fired = by_hand(lm, table, ids)
        with table.applied(lm) as same, torch.no_grad():
            found = lm.model(torch.tensor([ids])).logits[0]
        assert same is lm
        assert fired
        assert len(fired) < len(ids)
        assert relative(found, wanted) < 1e-5
        with torch.no_grad():
            base = lm.model(torch.tensor([ids])).logits[0]
        assert relative(found, base) > 0.01
    assert same_weights(lm, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision(dtype):
    lm = tiny("llama")
    lm.model.to(dtype)
    table = made(lm)
    assert table.keys.dtype == table.values.dtype == torch.float32
    ids = lm.tokenizer(PROMPTS[0])["input_ids"]
    wanted, fired = by_hand(lm, table, ids)
    with table.applied(lm), torch.no_grad():
        found = lm.model(torch.tensor([ids])).logits[0]
    assert fired
    assert found.dtype == dtype
    assert relative(found, wanted) < 1e-3


def test_it_is_removed_without_a_trace_also_after_an_error():
    lm = tiny("llama")
    table, ids = made(lm), torch.tensor([lm.tokenizer(PROMPTS[0])["input_ids"]])
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()]
    with torch.no_grad():
        before = lm.model(ids).logits
        with pytest.raises(KeyboardInterrupt), table.applied(lm):
            assert not torch.equal(lm.model(ids).logits, before)
            raise KeyboardInterrupt
        assert torch.equal(lm.model(ids).logits, before)
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()] == hooks
    assert lm.edits == []


def test_another_model_or_an_edited_one_is_refused():
    lm, other = tiny("llama"), tiny("llama", seed=1)
    table = made(lm)
    with pytest.raises(ValueError, match="another model"), table.applied(other):
        pass
    edit = Edit({}, lm.fingerprint(()))
    with edit.applied(lm), table.applied(lm):  # changes no weight
        assert len(lm.edits) == 2
    with torch.no_grad():
        lm.weight(0).mul_(1.01)
    with pytest.raises(ValueError, match="fingerprints differ"), table.applied(lm):
        pass


def test_nothing_of_the_base_model_is_computed_while_it_is_applied():
    lm = tiny("llama")
    table, mkvs = made(lm), compute_mkvs(lm, FACTS, CONTEXTS, HPARAMS, keys=())
    with table.applied(lm), pytest.raises(ValueError, match="1 edits applied"):
        trajectories(lm, FACTS, mkvs, CONTEXTS, HPARAMS.layers)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_evaluate_scores_trees_as_texts_one_by_one(kind):
    lm = tiny(kind)
    table = made(lm)
    asked = [
        (prompt, target)
        for fact in FACTS
        for prompt in (fact.question, *fact.paraphrases, *(near.prompt for near in fact.neighbours))
        for target in (fact.target_new, fact.target_true)
    ]
    plain, fired = [], 0
    for prompt, target in asked:
        ids, start = lm.tokenizer(f"{prompt} {target}")["input_ids"], len(lm.tokenizer(prompt)["input_ids"])
        logits, here = by_hand(lm, table, ids)
        logs = logits.float().log_softmax(-1)
        plain.append(torch.stack([logs[i - 1, ids[i]] for i in range(start, len(ids))]).mean())
        fired += bool(here)
    assert fired > 0
    prompts, targets = zip(*asked, strict=True)
    prepared = prepare(lm, prompts, targets, below=READ)
    with table.applied(lm):
        found, upper, whole = log_probs(lm, prompts, targets), score(lm, prepared).log_prob, evaluate(lm, FACTS)
    assert torch.allclose(found, torch.stack(plain), atol=1e-4)
    assert torch.allclose(upper, torch.stack(plain), atol=1e-4)
    assert (found - prepared.scores.log_prob).abs().max() > 0.1
    for fact, probability in zip(FACTS, whole.per_fact["probability"], strict=True):
        assert probability == pytest.approx(float(plain[asked.index((fact.question, fact.target_new))].exp()), rel=1e-3)


@pytest.mark.parametrize("below", [AFTER, AFTER + 1])
def test_an_evaluation_prepared_above_the_keys_is_refused(below):
    lm = tiny("llama")
    table, prepared = made(lm), prepare_evaluation(lm, FACTS, below=below)
    with table.applied(lm), pytest.raises(ValueError, match="prepare it again"):
        evaluate(lm, FACTS, prepared=prepared)
    evaluate(lm, FACTS, prepared=prepared)


def test_only_higher_layers_cannot_run():
    lm = tiny("llama")
    with made(lm).applied(lm), pytest.raises(ValueError, match=f"reads its keys at layer {READ}"):
        prepare_evaluation(lm, FACTS, below=AFTER)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_generation_with_cached_prefixes_and_padding(kind):
    lm, tokens = tiny(kind), 6
    table = made(lm)
    wanted = []
    for prompt in PROMPTS:  # alone, and everything again for each token
        ids = list(lm.tokenizer(prompt)["input_ids"])
        start = len(ids)
        for _ in range(tokens):
            following = int(by_hand(lm, table, ids)[0][-1].argmax())
            if following in end_tokens(lm):
                break
            ids.append(following)
        wanted.append(lm.tokenizer.decode(ids[start:], skip_special_tokens=True, clean_up_tokenization_spaces=False))
    base = greedy(lm, PROMPTS, tokens)
    with table.applied(lm):
        found = greedy(lm, PROMPTS, tokens)
    assert found == wanted
    assert found != base


def test_the_order_of_the_facts_changes_no_bit_and_withdrawal_neither():
    packets = [packet_of(seed) for seed in range(6)]
    whole, mixed = memory(packets), memory([packets[i] for i in (3, 0, 5, 1, 4, 2)])
    assert same(whole, mixed)
    assert same(whole.without(packets[2]), memory(packets[:2] + packets[3:]))
    for packet in packets:
        whole = whole.without(packet)
    assert len(whole) == 0
    assert torch.equal(whole.recall(torch.ones(2, D_MLP)), torch.zeros(2, whole.values.shape[1]))
    with pytest.raises(ValueError, match="none of the 6 rows"):
        mixed.without(packet_of(9))


def same(one: Memory, other: Memory) -> bool:
    parts = [(one.keys, other.keys), (one.values, other.values)]
    about = [(it.threshold, it.edited, it.fingerprint) for it in (one, other)]
    return all(torch.equal(*pair) for pair in parts) and about[0] == about[1]


def test_a_row_is_the_mean_key_at_the_first_layer_and_the_residual():
    paths, mkvs = [path_of(seed) for seed in range(3)], [mkv_of(seed) for seed in range(3)]
    table = memory(paths)
    assert table.layers == (LAYERS[0], LAYERS[-1])
    for path, mkv in zip(paths, mkvs, strict=True):
        bare, *others = path.keys[LAYERS[0]].double()
        key = bare / 2 + sum(others) / len(others) / 2
        row = int((table.keys.double() @ key).argmax())
        assert torch.allclose(table.keys[row].double(), key / key.norm(), atol=1e-6)
        assert torch.equal(table.values[row], mkv.z - mkv.h)
    assert same(table.without(paths[1]), memory([paths[0], paths[2]]))


def test_what_is_saved_is_loaded_again(tmp_path):
    table = memory([packet_of(seed) for seed in range(3)], threshold=0.1 + 0.2)
    assert same(Memory.load(table.save(tmp_path / "three.safetensors")), table)
    assert list(tmp_path.iterdir()) == [tmp_path / "three.safetensors"]
    save_file({"keys": table.keys}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a memory"):
        Memory.load(tmp_path / "other.safetensors")
    (tmp_path / "half").write_bytes((tmp_path / "three.safetensors").read_bytes()[:100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Memory.load(tmp_path / "half")


def test_similarities_are_those_of_every_token_of_the_texts():
    lm = tiny("llama")
    table, texts = made(lm), TEXT.splitlines()[:3]
    found = similarities(lm, table, texts)
    assert len(found) == sum(len(lm.tokenizer(text)["input_ids"]) for text in texts)
    fired = sum(len(by_hand(lm, table, lm.tokenizer(text)["input_ids"])[1]) for text in texts)
    assert int((found > table.threshold).sum()) == fired > 0


def test_what_is_wrong_is_said():
    packets = [packet_of(seed) for seed in range(2)]
    with pytest.raises(ValueError, match="no contributions"):
        memory([])
    with pytest.raises(ValueError, match="several models"):
        memory([path_of(0), replace(path_of(1), fingerprint="other")])
    with pytest.raises(ValueError, match="from -1 to 1"):
        memory(packets, threshold=1.5)
    with pytest.raises(ValueError, match="all finite"):
        memory([replace(path_of(0), residual=mkv_of(0).residual * float("nan"))])
