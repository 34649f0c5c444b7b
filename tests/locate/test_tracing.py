"""Causal tracing against the textbook: one state at a time, through the whole model, with plain forward hooks."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.facts.fact import Fact
from fleke_lib.locate import tracing as locate
from fleke_lib.locate.tracing import causal_trace
from fleke_lib.model.tokens import encode
from tests.tiny import KINDS, tiny

FACT = Fact("Eiffel Tower", "The {} is in", "Rome", "Paris")
AT_START = Fact("LeBron James", "{} plays the", "football", "sport")
MOON = Fact("Apollo", "{} landed in", "nothing", "1969")  # every tokenizer here splits " 1969" into " ", "1", ...


def textbook(lm, fact, kind, samples, noise, window, seed, sever=""):
    """ROME's causal trace as in its section 2: every restoration is a separate run through the whole model."""
    text = encode(lm.tokenizer, fact.question, fact.target_true, fact.subject_span)
    coded = lm.tokenizer(f"{fact.question} {fact.target_true}")
    start = coded.char_to_token(len(fact.question) + 1)  # the token with the answer's first letter
    ids, answer = torch.tensor([text.ids[:start]]), text.ids[start]
    subject = slice(text.subject[0], text.subject[1] + 1)
    embedded = lm.embeddings(ids)
    multiplied = float(embedded.norm() / lm.embeddings.weight[ids].norm())
    drawn = torch.randn(
        (samples, subject.stop - subject.start, lm.d_model), generator=torch.Generator().manual_seed(seed)
    )
    spread = noise * multiplied * lm.embeddings.weight.std()

    def parts(kind):
        part = {"hidden": lm.layers.__getitem__, "mlp": lm.projection, "attention": lm.attention_out}[kind]
        return [part(layer) for layer in range(lm.n_layers)]

    modules, cut = parts(kind), parts(sever) if sever else []

    def run(sample, hooks):
        def corrupt(module, args, output):
            output = output.clone()
            output[:, subject] += spread * drawn[sample]
            return output

        handles = [] if sample is None else [lm.embeddings.register_forward_hook(corrupt)]
        handles += [module.register_forward_hook(hook) for module, hook in hooks]
        with torch.no_grad():
            logits = lm.model(ids).logits
        [handle.remove() for handle in handles]
        return float(logits[0, -1].softmax(-1)[answer])

    def keep(states, name):
        return lambda module, args, output: states.__setitem__(name, output)

    def put_back(state, token):
        def hook(module, args, output):
            is_tuple = isinstance(output, tuple)
            changed = (output[0] if is_tuple else output).clone()
            changed[0, token] = (state[0] if is_tuple else state)[0, token]
            return (changed, *output[1:]) if is_tuple else changed

        return hook

    states, corrupted = {}, [{} for _ in range(samples)]
    clean = run(None, [(module, keep(states, layer)) for layer, module in enumerate(modules)])
    lost = [run(i, [(module, keep(corrupted[i], layer)) for layer, module in enumerate(cut)]) for i in range(samples)]

    def restored(sample, token, layer):
        around = range(max(0, layer - window // 2), min(lm.n_layers, layer - window // 2 + window))
        above = range(layer + 1, len(cut))
        hooks = [(modules[i], put_back(states[i], token)) for i in around]
        return run(sample, hooks + [(cut[i], put_back(corrupted[sample][i], token)) for i in above])

    scores = torch.zeros(ids.shape[1], lm.n_layers)
    for token in range(ids.shape[1]):
        for layer in range(lm.n_layers):
            scores[token, layer] = sum(restored(sample, token, layer) for sample in range(samples)) / samples
    return clean, sum(lost) / samples, scores


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize(
    ("kind", "sever"), [*((kind, "") for kind in locate.KINDS), ("hidden", "mlp"), ("hidden", "attention")]
)
def test_agrees_with_the_textbook(model, kind, sever, monkeypatch):
    monkeypatch.setattr(locate, "BLOCK", 3)  # four layers: a full block, and one that is not
    lm = tiny(model)
    for fact, samples, window in ((FACT, 2, 3 if kind != "hidden" else 1), (AT_START, 1, 2)):
        trace = causal_trace(lm, fact, kind, samples=samples, noise=2.0, window=window, sever=sever, seed=5)
        clean, corrupted, scores = textbook(lm, fact, kind, samples, 2.0, window, 5, sever)
        assert trace.clean == pytest.approx(clean, rel=1e-4)  # a float32 logit of about 10 is right to 1e-6 of itself
        assert trace.corrupted == pytest.approx(corrupted, rel=1e-4)
        torch.testing.assert_close(trace.scores, scores, atol=0, rtol=1e-4)
        assert scores.std() > 0.1 * scores.mean(), "the states must matter, else nothing is compared"


@pytest.mark.parametrize("model", KINDS)
def test_the_answer_is_no_mere_blank(model):
    lm = tiny(model)
    trace = causal_trace(lm, MOON, samples=2, noise=2.0, seed=5)
    clean, _, scores = textbook(lm, MOON, "hidden", 2, 2.0, 1, 5)
    assert trace.answer == "1" and trace.clean == pytest.approx(clean, rel=1e-4)
    torch.testing.assert_close(trace.scores, scores, atol=0, rtol=1e-4)
    assert not trace.tokens[-1].strip() and trace.subject[1] < len(trace.tokens) - 1
    other = causal_trace(lm, replace(MOON, target_true="2024"), samples=2, noise=2.0, seed=5)
    assert other.answer == "2" and other.clean != trace.clean


def test_what_a_trace_says():
    lm = tiny("gpt2")
    trace = causal_trace(lm, FACT)
    first, last = trace.subject
    assert trace.kind == "hidden"
    assert "".join(trace.tokens) == FACT.question
    assert "".join(trace.tokens[first : last + 1]).strip() == FACT.subject
    assert " Paris".startswith(trace.answer) and trace.answer.strip()
    assert trace.scores.shape == (len(trace.tokens), lm.n_layers)
    assert trace.total == trace.clean - trace.corrupted
    torch.testing.assert_close(trace.indirect, trace.scores - trace.corrupted)
    layer, score = trace.best(last)
    assert score == trace.scores[last].max() == trace.scores[last, layer]


@pytest.mark.parametrize("kind", locate.KINDS)
def test_tokens_before_the_subject_change_nothing(kind):
    trace = causal_trace(tiny("llama"), FACT, kind)
    assert trace.subject[0] > 0
    assert (trace.scores[: trace.subject[0]] == trace.corrupted).all()


def test_the_last_state_is_the_whole_answer():
    trace = causal_trace(tiny("llama"), FACT, "hidden")
    assert trace.scores[-1, -1].item() == pytest.approx(trace.clean, abs=1e-6)
    assert trace.scores[trace.subject[0], -1].item() == pytest.approx(trace.corrupted, abs=1e-6)


def test_only_the_wanted_tokens_are_restored():
    lm = tiny("gpt2")
    whole = causal_trace(lm, FACT)
    part = causal_trace(lm, FACT, classes=("last subject", "last"))
    wanted = [*range(whole.subject[0]), whole.subject[1], len(whole.tokens) - 1]
    torch.testing.assert_close(part.scores[wanted], whole.scores[wanted])
    assert part.scores.isnan().all(1).sum() == len(whole.tokens) - len(wanted)
    assert "nan" not in part._repr_html_()


def test_severing_in_the_last_layer_changes_nothing():
    whole, severed = (causal_trace(tiny("gpt2"), FACT, sever=sever) for sever in ("", "mlp"))
    torch.testing.assert_close(severed.scores[:, -1], whole.scores[:, -1])
    assert (severed.scores[whole.subject[1], 0] - whole.scores[whole.subject[1], 0]).abs() > 1e-6


@pytest.mark.parametrize("kind", locate.KINDS)
def test_without_noise_nothing_is_lost(kind):
    trace = causal_trace(tiny("gpt2"), FACT, kind, noise=0.0)
    assert trace.corrupted == pytest.approx(trace.clean, abs=1e-6)
    torch.testing.assert_close(trace.scores, torch.full_like(trace.scores, trace.clean), atol=1e-6, rtol=0)


def test_the_seed_decides():
    lm = tiny("gpt2")
    one, same, other = (causal_trace(lm, FACT, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.scores, same.scores) and one.corrupted == same.corrupted
    assert one.corrupted != other.corrupted


def test_kinds_share_the_noise():
    lm = tiny("gpt2")
    assert len({causal_trace(lm, FACT, kind, seed=1).corrupted for kind in locate.KINDS}) == 1


def test_the_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    causal_trace(tiny("gpt2"), FACT)
    assert torch.equal(before, torch.random.get_rng_state())


def hooks(lm):
    return [hook for module in lm.model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


def test_the_model_is_left_as_it_was(monkeypatch):
    lm = tiny("llama")
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    causal_trace(lm, FACT, "mlp")

    def broken(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(locate, "_probability", broken)
    with pytest.raises(KeyboardInterrupt):
        causal_trace(lm, FACT, "mlp")
    assert not hooks(lm)
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())


def test_an_exception_in_the_corrupted_run_leaves_no_hook(monkeypatch):
    lm = tiny("llama")

    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(lm.layers[2].mlp, "forward", broken)
    with pytest.raises(KeyboardInterrupt):
        causal_trace(lm, FACT)
    assert not hooks(lm)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "mpl"},
        {"window": 0},
        {"window": 5},
        {"samples": 0},
        {"noise": -1.0},
        {"sever": "hidden"},
        {"sever": "mlp", "kind": "mlp"},
        {"classes": ("last subject", "middle")},
    ],
)
def test_bad_arguments_get_one_sentence(wrong):
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))} is .*: give .*\.$"):
        causal_trace(tiny("gpt2"), FACT, **wrong)


def test_the_default_window_is_a_fifth():
    assert [locate.default_window("mlp", n) for n in (1, 4, 30, 48)] == [1, 1, 6, 10]
    assert locate.default_window("hidden", 48) == 1
