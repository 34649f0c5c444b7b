"""Trajectories and the closed-form edit against plain loops over full forward passes and against normal equations."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fleke_lib.edit import from_sums, trajectory
from fleke_lib.edit.trajectories import BYSTANDER, Trajectory, _simulate, shareable, trajectories
from fleke_lib.facts.contexts import context_weights
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import fact_texts
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.model.activations import record, rewrite
from fleke_lib.model.presets import Hparams
from fleke_lib.ridge.sums import Sums, sums
from tests.textbook import norm
from tests.tiny import KINDS, WILD, tiny

LAYERS = (0, 1, 2)
CONTEXTS = ("", "It was a day. ", "The people of the city say: ")
FACTS = [
    Fact("France", "The capital of {} is", "Rome", "Paris"),
    Fact("Hamlet", "The author of {} is", "Goethe", "Shakespeare"),
    Fact("LeBron James", "{} plays the sport of", "football", "basketball"),
]


def textbook(lm, fact, z, contexts, layers):
    """One text at a time through the whole model; shares are added at the subject's last token, from below."""
    keys, shares = {}, {}

    def run(text, last, watched):
        def adding(layer):
            def change(output):
                output = output.clone()
                output[0, last] += shares[layer]
                return output

            return change

        with (
            record(**watched) as seen,
            rewrite({lm.projection(lower): adding(lower) for lower in shares}),
            torch.no_grad(),
        ):
            lm.model(torch.tensor([text]))
        return {name: value[0, last] for name, value in seen.items()}

    texts = [(text.ids[: text.subject[1] + 1], text.subject[1]) for text in fact_texts(lm, fact, contexts)]
    for i, layer in enumerate(layers):
        watch = {"inputs": {"k": lm.projection(layer)}}
        keys[layer] = torch.stack([run(*text, watch)["k"] for text in texts])
        seen = run(*texts[0], {"outputs": {"h": lm.layers[layers[-1]], "y": lm.projection(layer)}})
        shares[layer] = norm.carried(lm, layer, seen["y"], (z - seen["h"]) / (len(layers) - i))
    return keys, shares


def base_keys(lm, fact, contexts, layers):
    """The mean key where nothing is added, from one whole pass for each context."""
    found = {layer: 0 for layer in layers}
    for text, weight in zip(fact_texts(lm, fact, contexts), context_weights(len(contexts)).tolist(), strict=True):
        with record(inputs={layer: lm.projection(layer) for layer in layers}) as seen, torch.no_grad():
            lm.model(torch.tensor([text.ids]))
        for layer in layers:
            found[layer] = found[layer] + weight * seen[layer][0, text.subject[1]].double()
    return found


def other_words(lm, fact, layers):
    """Keys of the question's tokens, one whole pass, without its first and without the subject's last one."""
    start = fact.question.index(fact.subject) + len(fact.subject)
    encoded = lm.tokenizer(fact.question, return_offsets_mapping=True)
    (cut,) = (i for i, (begin, end) in enumerate(encoded["offset_mapping"]) if begin < start <= end)
    with record(inputs={layer: lm.projection(layer) for layer in layers}) as seen, torch.no_grad():
        lm.model(torch.tensor([encoded["input_ids"]]))
    kept = [i for i in range(1, len(encoded["input_ids"])) if i != cut]
    return {layer: seen[layer][0, kept] for layer in layers}


@pytest.fixture(scope="module", params=[*KINDS, WILD])
def case(request):
    lm = tiny(request.param)
    mkvs = compute_mkvs(lm, FACTS, CONTEXTS, Hparams(LAYERS, steps=3))
    return lm, mkvs, trajectories(lm, FACTS, mkvs, CONTEXTS, LAYERS)


def test_agrees_with_the_textbook(case):
    lm, mkvs, paths = case
    for fact, mkv, path in zip(FACTS, mkvs, paths, strict=True):
        keys, shares = textbook(lm, fact, mkv.z, CONTEXTS, LAYERS)
        others = other_words(lm, fact, LAYERS)
        assert torch.equal(path.residual, mkv.z - mkv.h) and path.left == {}
        bases = base_keys(lm, fact, CONTEXTS, LAYERS) if lm.mlp_norm(LAYERS[0]) is None else {}
        assert path.bases.keys() == bases.keys()
        for layer, base in bases.items():
            torch.testing.assert_close(path.bases[layer].double(), base, rtol=1e-4, atol=1e-5)
            moved = (path.mean(layer) - path.bases[layer]).norm() / path.mean(layer).norm()
            assert (moved < 1e-6) == (layer == LAYERS[0]), "shares below move the key"
        for layer in LAYERS:
            torch.testing.assert_close(path.bystanders[layer], others[layer], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(path.keys[layer], keys[layer], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(path.shares[layer], shares[layer], rtol=1e-4, atol=1e-5)


def test_does_not_depend_on_the_batch_and_leaves_the_model_alone(case):
    lm, mkvs, paths = case
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    alone = [trajectories(lm, [f], [m], CONTEXTS, LAYERS)[0] for f, m in zip(FACTS, mkvs, strict=True)]
    for one, path, mkv in zip(alone, paths, mkvs, strict=True):
        rounding = 1e-6 * float(mkv.z.norm())  # a share is a difference of float32 states of this size
        if lm.mlp_norm(LAYERS[0]) is not None:
            rounding *= 10  # the way back through small gains enlarges it
        for layer in LAYERS:
            torch.testing.assert_close(one.keys[layer], path.keys[layer], rtol=1e-5, atol=rounding)
            torch.testing.assert_close(one.shares[layer], path.shares[layer], rtol=1e-5, atol=rounding)
            torch.testing.assert_close(one.bystanders[layer], path.bystanders[layer], rtol=1e-5, atol=rounding)
    assert all(torch.equal(before[name], value) for name, value in lm.model.state_dict().items())


def test_one_layer_is_the_mkv_itself():
    lm = tiny("llama")
    mkvs = compute_mkvs(lm, FACTS, CONTEXTS, Hparams((1,), steps=3))
    for path, mkv in zip(trajectories(lm, FACTS, mkvs, CONTEXTS, (1,)), mkvs, strict=True):
        torch.testing.assert_close(path.shares[1], mkv.residual, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(path.keys[1], mkv.keys[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "gpt_neox"])
def test_after_the_closed_form_the_states_at_L_are_the_mkvs(kind):
    """If C forbids changes at the tokens before the subject and has little other weight, the edit is as simulated."""
    lm = tiny(kind)
    facts = [Fact(subject, "The {} is in", "Rome", "Paris") for subject in "ABC"]
    mkvs = compute_mkvs(lm, facts, ("",), Hparams(LAYERS, steps=5))
    texts = [fact_texts(lm, fact, ("",))[0] for fact in facts]
    moments = {layer: torch.eye(lm.d_mlp, dtype=torch.float64) for layer in LAYERS}
    for text in texts:
        with record(inputs={layer: lm.projection(layer) for layer in LAYERS}) as seen, torch.no_grad():
            lm.model(torch.tensor([text.ids[: text.subject[1]]]))
        for layer in LAYERS:
            moments[layer] += 1e10 * seen[layer][0].double().T @ seen[layer][0].double()
    edit = trajectory(trajectories(lm, facts, mkvs, ("",), LAYERS), moments, lam=1e-6)
    with edit.applied(lm):
        for text, mkv in zip(texts, mkvs, strict=True):
            with record(outputs={"h": lm.layers[LAYERS[-1]]}) as seen, torch.no_grad():
                lm.model(torch.tensor([text.ids]))
            torch.testing.assert_close(seen["h"][0, text.subject[1]], mkv.z, rtol=1e-3, atol=1e-3)


CHICAGO = Fact("Chicago", "{} is a twin city of", "Damascus", "Warsaw")


@pytest.mark.parametrize("kind", KINDS)
def test_a_subject_that_is_the_first_token_cannot_be_shared(kind):
    """A tokenizer that adds a token before every text makes that token the attention sink instead."""
    lm = tiny(kind)
    first, other = Fact("A", "{} is in", "Rome", "Paris"), Fact("A", "The {} is in", "Rome", "Paris")
    if lm.tokenizer("A").input_ids[0] == lm.tokenizer.bos_token_id:
        assert shareable(lm, [first, other]) == (first, other)
        return
    assert shareable(lm, [first, other]) == (other,)
    with pytest.raises(ValueError, match="1 of 2 facts cannot be shared, the first of them 'A is in'"):
        trajectories(lm, [first, other], compute_mkvs(lm, [first, other], ("",), Hparams((1,), steps=1)))


@pytest.mark.model
def test_why_it_cannot(lm):
    """On the default model, any share at the attention sink leads to extremely large later shares."""
    mkv, usual = (mkvs(lm, fact) for fact in (CHICAGO, replace(CHICAGO, prompt="The city of {} is a twin city of")))
    assert shareable(lm, [CHICAGO]) == ()
    assert mkv.h.norm() > 100 * usual.h.norm()
    _, shares, _ = _simulate(lm, [CHICAGO], [mkv], lm.preset.contexts, lm.preset.layers)
    assert max(float(share.norm()) for share in shares.values()) > 20 * float(mkv.residual.norm())


def mkvs(lm, fact):
    return compute_mkvs(lm, [fact], hparams=replace(lm.preset.memit, steps=8))[0]


@st.composite
def problems(draw):
    facts, contexts, d_model, d_mlp = (draw(st.integers(1, top)) for top in (6, 4, 5, 12))
    words = draw(st.lists(st.integers(0, 3), min_size=facts, max_size=facts))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    paths = [
        Trajectory({2: normal(contexts, d_mlp)}, {2: normal(d_model)}, "f", normal(d_model), {2: normal(n, d_mlp)})
        for n in words
    ]
    root = normal(3 * d_mlp, d_mlp).double()
    return paths, {2: root.T @ root / len(root)}, draw(st.sampled_from([0.1, 1.0, 10.0]))


@given(problems())
def test_solves_the_weighted_ridge_regression(problem):
    """The gradient of sum_i (sum_c w_c |dW k - r|^2 + beta sum_t |dW q|^2) + lam tr(dW C dW^T) is zero, by autograd."""
    paths, moments, lam = problem
    dW = trajectory(paths, moments, lam).delta(2).clone().requires_grad_()
    loss = lam * torch.trace(dW @ moments[2] @ dW.T)
    for path in paths:
        keys = path.keys[2].double()
        errors = (keys @ dW.T - path.shares[2].double()).pow(2).sum(1)
        loss = loss + context_weights(len(keys)).double() @ errors
        loss = loss + BYSTANDER * (path.bystanders[2].double() @ dW.T).pow(2).sum()
    (gradient,) = torch.autograd.grad(loss, dW)
    assert gradient.abs().max() < 1e-8 * max(1.0, float(loss.detach()))


@given(problems(), st.integers(0, 6))
def test_sums_add_and_are_taken_out_again(problem, cut):
    paths, moments, lam = problem
    whole, first, rest = sums(paths, 2), paths[:cut], paths[cut:]
    if not first or not rest:
        return
    added = sums(first, 2) + sums(rest, 2)
    back = whole - sums(rest, 2)
    for name in ("S", "T"):
        torch.testing.assert_close(getattr(added, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(getattr(back, name), getattr(sums(first, 2), name), rtol=1e-9, atol=1e-9)
    of_sums = from_sums({2: added}, moments, "f", lam).delta(2)
    torch.testing.assert_close(of_sums, trajectory(paths, moments, lam).delta(2), rtol=1e-9, atol=1e-9)


@settings(max_examples=20)
@given(problems())
def test_on_a_device_the_layers_are_solved_one_after_the_other_to_the_same_bits(problem):
    """Of few facts, and of more than d_model."""
    paths, moments, lam = problem
    for several in (paths, paths * 7):
        here, there = (trajectory(several, moments, lam, device) for device in (None, torch.device("cpu")))
        assert here.fingerprint == there.fingerprint and here.notes == there.notes == {"facts": str(len(several))}
        assert all(torch.equal(here.delta(layer), there.delta(layer)) for layer in here.layers)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_solves_it_too_and_the_edit_comes_back():
    def path(seed):
        draw = torch.Generator().manual_seed(seed)
        return Trajectory(
            {layer: torch.randn(3, 40, generator=draw) for layer in LAYERS},
            {layer: torch.randn(8, generator=draw) for layer in LAYERS},
            "f",
            torch.randn(8, generator=draw),
            bases={layer: torch.randn(40, generator=draw) for layer in LAYERS},
        )

    moments = {layer: torch.eye(40, dtype=torch.float64) for layer in LAYERS}
    for n in (5, 20):
        paths = [path(seed) for seed in range(n)]
        here, there = trajectory(paths, moments, 1.0), trajectory(paths, moments, 1.0, "cuda")
        for layer in LAYERS:
            assert there.delta(layer).device == here.delta(layer).device
            torch.testing.assert_close(there.delta(layer), here.delta(layer), rtol=1e-9, atol=1e-9)


@settings(max_examples=20)
@given(problems(), st.permutations(range(6)))
def test_the_order_of_arrival_does_not_matter(problem, order):
    paths, moments, lam = problem
    shuffled = [paths[i] for i in order if i < len(paths)]
    one, other = (trajectory(p, moments, lam).delta(2) for p in (paths, shuffled))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_without_bystanders_a_trajectory_asks_nothing_of_other_words():
    keys, shares, others = torch.randn(3, 5), torch.ones(2), torch.randn(4, 5)
    whole = Trajectory({0: keys}, {0: shares}, "f", shares, {0: others})
    bare = replace(whole, bystanders={})
    extra = BYSTANDER * others.double().T @ others.double()
    torch.testing.assert_close(sums([whole], 0).S - sums([bare], 0).S, extra, rtol=1e-9, atol=1e-9)
    assert torch.equal(sums([whole], 0).T, sums([bare], 0).T)


def test_sums_of_many_facts_are_those_of_the_parts(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(7, 3, 5, generator=generator)
    paths = [Trajectory({0: k}, {0: k[0, :2]}, "f", k[0, :2]) for k in keys]
    whole = sums(paths, 0)
    monkeypatch.setattr("fleke_lib.ridge.sums.TOGETHER", 2)
    torch.testing.assert_close(sums(paths, 0).S, whole.S, rtol=1e-12, atol=1e-12)
    w = context_weights(3).double()
    direct = sum(w[c] * torch.outer(k[c], k[c]).double() for k in keys for c in range(3))
    torch.testing.assert_close(whole.S, direct, rtol=1e-6, atol=1e-6)
    assert isinstance(whole, Sums)


def made(layers=(0,), fingerprint="f"):
    keys, shares = dict.fromkeys(layers, torch.ones(1, 3)), dict.fromkeys(layers, torch.ones(2))
    return Trajectory(keys, shares, fingerprint, torch.ones(2))


@pytest.mark.parametrize(
    ("contributions", "words"),
    [
        ([], "no contributions to edit with"),
        ([made(), made(fingerprint="g")], "several models"),
        ([made(), made((0, 1))], "different layers"),
        ([made((0, 5))], "no C for layer 5"),
    ],
)
def test_bad_contributions_get_one_sentence(contributions, words):
    with pytest.raises(ValueError, match="no contributions to add up"):
        sums([], 0)
    with pytest.raises(ValueError, match=words):
        trajectory(contributions, {0: torch.eye(3), 1: torch.eye(3)})


def test_bad_arguments_get_one_sentence():
    lm = tiny("llama")
    with pytest.raises(ValueError, match="3 facts and 0 MKVs"):
        trajectories(lm, FACTS, [])
    mkvs = compute_mkvs(lm, FACTS[:1], ("",), Hparams((1,), steps=1))
    with pytest.raises(ValueError, match="layer"):
        trajectories(lm, FACTS[:1], mkvs, ("",), (9,))
