"""`compute_mkvs` against the textbook, one fact at a time through the whole model; its batches, cuts and starts."""

import warnings
from dataclasses import replace

import pytest
import torch

from fleke_lib.facts.fact import Fact
from fleke_lib.mkv.mkv import PACE, Mkv, Unconverged, compute_mkvs, warn_unconverged
from fleke_lib.mkv.objective import objective
from fleke_lib.mkv.store import SHIPPED, mkv_of, names_of, stored_mkvs
from fleke_lib.model.presets import NormalisedGradient
from fleke_lib.storage.rows import places, read_rows
from tests.textbook import memit as textbook
from tests.textbook.reading import context_keys, leaving, locate
from tests.textbook.samples import (
    CONTEXTS,
    FACTS,
    HPARAMS,
    STRONG,
    answered,
    cosine,
    relative,
    same_weights,
    weights,
)
from tests.tiny import KINDS, WILD, tiny

NORMED = ("gemma3_text", WILD)  # the MLP's output passes a norm
MODELS = (*KINDS, WILD)
CLOSE = 1e-4  # float32 rounding, seen through ten to forty steps of Adam, measured at 1e-6


@pytest.mark.parametrize("kind", MODELS)
def test_h_and_keys_are_the_textbooks(kind):
    lm = tiny(kind)
    for fact, mkv in zip(FACTS, compute_mkvs(lm, FACTS, CONTEXTS, replace(HPARAMS, steps=1)), strict=True):
        assert relative(mkv.h, leaving(lm, lm.layers[HPARAMS.layer], fact)) < CLOSE
        assert list(mkv.keys) == list(HPARAMS.layers)
        for layer in HPARAMS.layers:
            assert relative(mkv.keys[layer], context_keys(lm, fact, CONTEXTS, layer)) < CLOSE


@pytest.mark.parametrize("kind", MODELS)
def test_z_is_the_textbooks(kind):
    lm = tiny(kind)
    for fact, mkv in zip(FACTS, compute_mkvs(lm, FACTS, CONTEXTS, HPARAMS), strict=True):
        z = textbook.compute_z(lm, fact, CONTEXTS, HPARAMS)
        assert cosine(mkv.z, z) >= 0.999
        assert relative(mkv.residual, z - mkv.h) < CLOSE


@pytest.mark.parametrize("kind", ["llama", "gptj"])
def test_facts_that_converge_at_different_steps_are_each_the_textbooks(kind):
    lm = tiny(kind)
    hparams, facts = replace(STRONG, stop=0.6), answered(lm)
    mkvs = compute_mkvs(lm, facts, CONTEXTS, hparams)
    assert len({mkv.steps for mkv in mkvs}) > 1
    for fact, mkv in zip(facts, mkvs, strict=True):
        assert relative(mkv.z, textbook.compute_z(lm, fact, CONTEXTS, hparams)) < CLOSE


def test_the_clamp_is_the_textbooks():
    lm = tiny("llama")
    hparams = replace(HPARAMS, clamp=0.1)
    for fact, mkv in zip(FACTS, compute_mkvs(lm, FACTS, CONTEXTS, hparams), strict=True):
        assert float(mkv.residual.norm() / mkv.h.norm()) == pytest.approx(0.1, rel=1e-4)
        assert relative(mkv.z, textbook.compute_z(lm, fact, CONTEXTS, hparams)) < CLOSE


def test_the_bare_prompt_alone_is_a_context():
    lm = tiny("gpt2")
    (mkv,) = compute_mkvs(lm, FACTS[:1], ("",), HPARAMS)
    assert mkv.keys[1].shape == (1, lm.d_mlp)
    assert relative(mkv.z, textbook.compute_z(lm, FACTS[0], ("",), HPARAMS)) < CLOSE


def test_the_loss_is_the_objective_at_z():
    lm = tiny("llama")
    (mkv,) = compute_mkvs(lm, FACTS[:1], CONTEXTS, HPARAMS)
    assert mkv.loss == pytest.approx(objective_at(lm, FACTS[0], mkv), rel=1e-4)
    assert mkv.steps == HPARAMS.steps - 1


@torch.no_grad()
def objective_at(lm, fact, mkv) -> float:
    """The published objective of one fact at h + residual."""
    at = {lm.layers[HPARAMS.layer]: mkv.residual}
    nll = sum(-textbook.target_log_probs(lm, fact, prefix, at).mean() for prefix in CONTEXTS) / len(CONTEXTS)
    kl = textbook.divergence(*(textbook.essence_log_probs(lm, fact, deltas) for deltas in (at, {})))
    return float(nll + HPARAMS.kl_factor * kl + HPARAMS.weight_decay * mkv.residual.norm() / mkv.h.norm() ** 2)


@pytest.mark.parametrize("kind", MODELS)
def test_results_do_not_depend_on_what_shares_the_batch(kind):
    lm = tiny(kind)
    together = compute_mkvs(lm, FACTS, CONTEXTS, HPARAMS)
    pairs = compute_mkvs(lm, FACTS[::-1], CONTEXTS, HPARAMS, batch=2)[::-1]
    for fact, mkv, paired in zip(FACTS, together, pairs, strict=True):
        (alone,) = compute_mkvs(lm, [fact], CONTEXTS, HPARAMS)
        for other in (paired, alone):
            assert relative(mkv.z, other.z) < CLOSE
            assert all(relative(mkv.keys[layer], other.keys[layer]) < CLOSE for layer in HPARAMS.layers)
            assert mkv.steps == other.steps


def test_a_converged_fact_does_not_hold_up_nor_disturb_the_others():
    lm = tiny("llama")
    hparams, facts = replace(STRONG, stop=0.6), answered(lm)
    for fact, mkv in zip(facts, compute_mkvs(lm, facts, CONTEXTS, hparams), strict=True):
        (alone,) = compute_mkvs(lm, [fact], CONTEXTS, hparams)
        assert alone.steps == mkv.steps
        assert relative(mkv.z, alone.z) < CLOSE


def test_the_same_call_twice_gives_the_same_numbers():
    lm = tiny("llama")
    one, two = (compute_mkvs(lm, FACTS, CONTEXTS, HPARAMS) for _ in range(2))
    assert all(torch.equal(a.z, b.z) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("kind", NORMED)
def test_behind_a_norm_the_residual_is_one_that_the_norm_can_put_out(kind):
    lm = tiny(kind)
    facts = answered(lm)
    for fact, mkv in zip(facts, compute_mkvs(lm, facts, CONTEXTS, STRONG), strict=True):
        assert possible(lm, fact, mkv.residual)
        with torch.no_grad():
            before, after = (
                textbook.target_log_probs(lm, fact, "", {lm.layers[HPARAMS.layer]: shift})
                for shift in (torch.zeros(lm.d_model), mkv.residual)
            )
        assert after > before


@pytest.mark.parametrize("kind", MODELS)
def test_the_model_is_left_alone(kind):
    lm = tiny(kind)
    before = weights(lm)
    compute_mkvs(lm, FACTS[:1], CONTEXTS, HPARAMS)
    assert same_weights(lm, before)
    assert not any(p.requires_grad or p.grad is not None for p in lm.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def test_only_what_delta_can_change_runs_again():
    """Layers up to L run once, the ones above only from the last subject token on, the vocabulary at target tokens."""
    lm = tiny("llama")
    seen = {name: [] for name in ("below", "above", "vocabulary")}
    modules = {
        "below": lm.layers[HPARAMS.layer],
        "above": lm.layers[-1],
        "vocabulary": lm.model.get_output_embeddings(),
    }
    for name, module in modules.items():
        module.register_forward_hook(lambda module, args, out, name=name: seen[name].append(args[0].shape[:-1].numel()))
    compute_mkvs(lm, FACTS, CONTEXTS, replace(HPARAMS, steps=2))
    once, twice = (len(seen["below"]), len(seen["above"]))
    targets = tokens = 0
    for fact in FACTS:
        for prefix in CONTEXTS:
            ids, subject, target = locate(lm, fact, prefix)
            targets += ids.shape[1] - target
            tokens = max(tokens, ids.shape[1] - 1 - subject)

    for values in seen.values():
        values.clear()
    compute_mkvs(lm, FACTS, CONTEXTS, replace(HPARAMS, steps=12))
    assert len(seen["below"]) == once  # more steps cost nothing below
    assert len(seen["above"]) == twice + 10 * 2  # prompts and "{subject} is a", once a step
    step = seen["above"][-2:]
    assert step == [len(FACTS) * len(CONTEXTS) * tokens, len(FACTS)]
    assert seen["vocabulary"][-2:] == [targets, len(FACTS)]
    assert max(seen["vocabulary"]) == targets


def test_converged_facts_are_dropped():
    lm, rows = tiny("llama"), []
    lm.layers[-1].register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    mkvs = compute_mkvs(lm, answered(lm), CONTEXTS, replace(STRONG, stop=0.6))
    last = max(mkv.steps for mkv in mkvs)
    unfinished = [sum(mkv.steps >= step for mkv in mkvs) for step in range(last + 1)]
    assert unfinished[0] > unfinished[-1]
    assert rows[-2 * len(unfinished) :: 2] == [n * len(CONTEXTS) for n in unfinished]
    assert rows[1 - 2 * len(unfinished) :: 2] == unfinished


def test_no_facts_have_no_mkvs():
    assert compute_mkvs(tiny("llama"), [], CONTEXTS, HPARAMS) == []


def test_facts_that_share_a_key_can_share_one_z():
    """One unknown for two facts: the residual is common, and its objective is the mean of theirs."""
    lm = tiny("llama")
    pair = [FACTS[0], replace(FACTS[0], prompt="The capital of {} and of", target_new="Berlin")]
    mkvs = compute_mkvs(lm, [FACTS[1], *pair], CONTEXTS, HPARAMS, groups=[[1, 2], [0]])
    together = mkvs[1:]
    assert torch.equal(together[0].residual, together[1].residual)
    mean = sum(objective_at(lm, fact, mkv) for fact, mkv in zip(pair, together, strict=True)) / 2
    assert [mkv.loss for mkv in together] == pytest.approx([mean, mean], rel=1e-4)
    alone = compute_mkvs(lm, pair, CONTEXTS, HPARAMS)
    assert not torch.allclose(alone[0].residual, alone[1].residual)


def directions(lm, facts, length: float, seed: int = 0) -> torch.Tensor:
    """A random start for each fact, `length` times as long as its h."""
    noise = torch.randn(len(facts), lm.d_model, generator=torch.Generator().manual_seed(seed))
    h = torch.stack([leaving(lm, lm.layers[HPARAMS.layer], fact) for fact in facts])
    return length * h.norm(dim=1, keepdim=True) * torch.nn.functional.normalize(noise, dim=1)


@pytest.mark.parametrize("kind", MODELS)
def test_a_start_at_zero_is_a_cold_start_bit_for_bit(kind):
    lm = tiny(kind)
    cold = compute_mkvs(lm, FACTS, CONTEXTS, HPARAMS)
    starts = torch.stack([torch.zeros(lm.d_model), *directions(lm, FACTS[:1], 0.3), torch.zeros(lm.d_model)])
    zeros = compute_mkvs(lm, FACTS, CONTEXTS, HPARAMS, starts=torch.zeros(3, lm.d_model))
    mixed = compute_mkvs(lm, FACTS, CONTEXTS, HPARAMS, starts=starts)
    for one, zero in zip(cold, zeros, strict=True):
        assert torch.equal(one.z, zero.z) and (one.loss, one.steps) == (zero.loss, zero.steps)
    assert all(torch.equal(cold[i].z, mixed[i].z) for i in (0, 2)) and not torch.equal(cold[1].z, mixed[1].z)
    first = compute_mkvs(lm, FACTS, CONTEXTS, replace(HPARAMS, steps=1), starts=starts)
    assert [bool(mkv.residual.any()) for mkv in first] == [False, True, False]


@pytest.mark.parametrize("length", [0.3, 2.0])
def test_from_a_start_z_is_the_textbooks(length):
    """Inside the ball, and from outside it, where the start is shortened first."""
    lm = tiny("llama")
    starts = directions(lm, FACTS, length)
    mkvs = compute_mkvs(lm, FACTS, CONTEXTS, HPARAMS, starts=starts)
    for fact, mkv, begin in zip(FACTS, mkvs, starts, strict=True):
        wanted = textbook.optimum(lm, fact, CONTEXTS, HPARAMS, begin=begin)
        assert relative(mkv.residual, wanted.z - mkv.h) < CLOSE
        assert (mkv.loss, mkv.steps) == (pytest.approx(wanted.loss, rel=1e-4), wanted.steps)


@pytest.mark.parametrize("kind", MODELS)
def test_a_start_outside_the_ball_is_brought_to_its_surface(kind):
    lm = tiny(kind)
    starts = directions(lm, FACTS, 5.0)
    mkvs = compute_mkvs(lm, FACTS, CONTEXTS, replace(HPARAMS, steps=1), starts=starts)
    for mkv, start in zip(mkvs, starts, strict=True):
        assert mkv.steps == 0
        if kind not in NORMED:  # else the norm decides how long it can be
            assert relative(mkv.residual, start * HPARAMS.clamp / 5.0) < CLOSE
    for mkv in compute_mkvs(lm, FACTS, CONTEXTS, HPARAMS, starts=starts):
        assert kind in NORMED or mkv.residual.norm() <= HPARAMS.clamp * mkv.h.norm() * (1 + 1e-5)


@pytest.mark.parametrize("kind", NORMED)
def test_behind_a_norm_a_start_is_one_that_the_norm_can_put_out(kind):
    lm = tiny(kind)
    first = replace(HPARAMS, steps=1)
    starts = directions(lm, FACTS, 0.3)
    for fact, mkv in zip(FACTS, compute_mkvs(lm, FACTS, CONTEXTS, first, starts=starts), strict=True):
        assert possible(lm, fact, mkv.residual)


def possible(lm, fact, residual) -> bool:
    """Whether the norm can put out its present output plus the residual: gain * u with rms(u) = 1.

    Entries of u at gains near zero are invisible; they make up what the others leave of the mean square.
    """
    norm = lm.mlp_norm(HPARAMS.layer)
    gain = 1 + norm.weight
    output = leaving(lm, norm, fact) + residual
    bound = gain.abs() > 1e-2
    square = float((output / gain)[bound].pow(2).sum()) / len(gain)
    small = float(output[~bound].norm() - 1e-2 * len(gain) ** 0.5) <= 1e-4
    return small and (square <= 1 + 1e-4 if not bound.all() else abs(square - 1) <= 2e-4)


def test_a_start_at_the_optimum_takes_no_step():
    lm = tiny("llama")
    hparams, facts = replace(STRONG, stop=0.6), answered(lm)
    found = compute_mkvs(lm, facts, CONTEXTS, hparams)
    reached = [i for i, mkv in enumerate(found) if mkv.loss < hparams.stop - 1e-3]
    assert reached
    starts = torch.stack([found[i].residual for i in reached])
    again = compute_mkvs(lm, [facts[i] for i in reached], CONTEXTS, hparams, starts=starts)
    for i, mkv in zip(reached, again, strict=True):
        assert mkv.steps == 0 < found[i].steps
        assert relative(mkv.z, found[i].z) < 1e-6


def test_what_comes_of_a_start_does_not_depend_on_what_shares_the_batch():
    lm = tiny("gptj")
    starts = directions(lm, FACTS, 0.3)
    together = compute_mkvs(lm, FACTS, CONTEXTS, HPARAMS, starts=starts)
    reverse = compute_mkvs(lm, FACTS[::-1], CONTEXTS, HPARAMS, batch=2, starts=starts.flip(0))[::-1]
    for i, mkv in enumerate(together):
        (alone,) = compute_mkvs(lm, FACTS[i : i + 1], CONTEXTS, HPARAMS, starts=starts[i : i + 1])
        assert relative(alone.z, mkv.z) < CLOSE and relative(reverse[i].z, mkv.z) < CLOSE


def test_a_group_begins_at_its_first_members_start():
    lm = tiny("llama")
    pair = [FACTS[0], replace(FACTS[0], prompt="The capital of {} and of", target_new="Berlin")]
    starts = directions(lm, pair, 0.3)
    one, two = compute_mkvs(lm, pair, CONTEXTS, replace(HPARAMS, steps=1), groups=[[1, 0]], starts=starts)
    assert relative(one.residual, starts[1]) < CLOSE and torch.equal(one.residual, two.residual)


@pytest.mark.parametrize(
    ("starts", "words"),
    [
        (torch.zeros(2, 32), r"\(2, 32\), but there are 3 facts"),
        (torch.zeros(3, 31), "32 wide"),
        (torch.full((3, 32), float("nan")), "not finite"),
    ],
)
def test_bad_starts_get_one_sentence(starts, words):
    with pytest.raises(ValueError, match=words):
        compute_mkvs(tiny("llama"), FACTS, CONTEXTS, HPARAMS, starts=starts)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_relative_learning_rate_is_that_multiple_of_each_facts_state(kind):
    """The first Adam step moves every entry by the learning rate."""
    lm = tiny(kind)
    hparams = replace(HPARAMS, lr=None, steps=2)
    for fact, mkv in zip(FACTS, compute_mkvs(lm, FACTS, CONTEXTS, hparams), strict=True):
        lr = PACE * float(leaving(lm, lm.layers[HPARAMS.layer], fact).abs().median())
        wanted = textbook.compute_z(lm, fact, CONTEXTS, replace(hparams, lr=lr))
        assert relative(mkv.residual, wanted - mkv.h) < 1e-3


def test_a_relative_learning_rate_does_not_depend_on_the_models_scale():
    """States a thousand times as long have residuals a thousand times as long; only the decay knows the length."""
    small, large = tiny("mistral"), tiny("mistral")  # its output matrix is another one
    with torch.no_grad():
        large.embeddings.weight.mul_(1000)
        for layer in range(large.n_layers):
            large.weight(layer).mul_(1000)
            large.attention_out(layer).weight.mul_(1000)
    hparams = replace(HPARAMS, lr=None, weight_decay=0.0)
    one, other = (compute_mkvs(lm, FACTS, CONTEXTS, hparams) for lm in (small, large))
    for a, b in zip(one, other, strict=True):
        assert b.h.norm() > 900 * a.h.norm()
        assert cosine(a.residual, b.residual) > 0.95
        assert b.residual.norm() / b.h.norm() == pytest.approx(float(a.residual.norm() / a.h.norm()), rel=0.1)


def test_mkvs_that_do_not_converge_are_named_in_one_warning(tmp_path, monkeypatch):
    lm, hparams = tiny("llama"), replace(HPARAMS, steps=1)
    with pytest.warns(
        Unconverged, match=r"^3 of 3 MKVs did not converge .* above 1 after all steps\): give hparams"
    ) as seen:
        compute_mkvs(lm, FACTS, CONTEXTS, hparams)
    assert len(seen) == 1 and seen[0].filename == __file__
    monkeypatch.setattr("fleke_lib.mkv.store.PART", 1)
    with pytest.warns(Unconverged, match="3 of 3") as seen:
        stored_mkvs(lm, FACTS, contexts=CONTEXTS, hparams=hparams, folder=tmp_path)
    assert len(seen) == 1 and seen[0].filename == __file__


def test_up_to_half_may_fail_without_a_warning():
    far, near = (Mkv(torch.ones(2), torch.ones(2), {}, loss) for loss in (1.5, 0.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_unconverged([far, near], stacklevel=1)
        warn_unconverged([], stacklevel=1)
    with pytest.warns(Unconverged, match="2 of 3"):
        warn_unconverged([far, far, near], stacklevel=1)


def test_no_shipped_part_would_be_warned_of():
    """The course's runs on the default model stay silent, in whichever tenths its facts are computed."""
    files = sorted(SHIPPED.glob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        rows = places([file])
        mkvs = [mkv_of(row) for row in read_rows([*rows.values()])]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for i in range(10):
                warn_unconverged(mkvs if "pmet" in file.name else mkvs[i::10], stacklevel=1)


@pytest.mark.model
def test_on_the_default_model(lm):
    """Three facts, two contexts: z to cosine 0.999 and keys to 1e-4 relative of the textbook's.

    After nine steps one fact has converged, and two are stopped by the limit.
    """
    facts = [
        Fact("France", "The capital of {} is", "Rome", "Paris"),
        Fact("LeBron James", "{} plays the sport of", "football", "basketball"),
        Fact("The Eiffel Tower", "{} is located in the city of", "Berlin", "Paris"),
    ]
    contexts = ("", "The day was long and warm. ")
    hparams = replace(lm.preset.memit, steps=10)
    mkvs = compute_mkvs(lm, facts, contexts, hparams)
    assert [mkv.steps for mkv in mkvs] == [9, 9, 8]
    for fact, mkv in zip(facts, mkvs, strict=True):
        assert cosine(mkv.z, textbook.compute_z(lm, fact, contexts, hparams)) >= 0.999
        for layer in lm.preset.layers:
            assert relative(mkv.keys[layer], context_keys(lm, fact, contexts, layer)) < 1e-4


FAST = replace(HPARAMS, steps=5, optimiser=NormalisedGradient(first=0.2, decay=0.9, prefixes=1))


@pytest.mark.parametrize(("kind", "prefixes"), [*((kind, 1) for kind in MODELS), ("llama", 0), ("llama", 2)])
def test_along_the_gradient_z_is_that_of_a_plain_loop(kind, prefixes):
    lm = tiny(kind)
    hparams = replace(FAST, optimiser=replace(FAST.optimiser, prefixes=prefixes))
    for fact, mkv in zip(FACTS, compute_mkvs(lm, FACTS, CONTEXTS, hparams), strict=True):
        wanted = textbook.fast_optimum(lm, fact, CONTEXTS, hparams)
        assert relative(mkv.residual, wanted.z - mkv.h) < 1e-3
        assert (mkv.loss, mkv.steps) == (pytest.approx(wanted.loss, rel=1e-3), wanted.steps)


def test_along_the_gradient_facts_stop_each_for_itself_and_do_not_depend_on_the_batch():
    lm = tiny("llama")
    hparams, facts = replace(STRONG, stop=0.6, steps=30, optimiser=NormalisedGradient(decay=1.0)), answered(lm)
    together = compute_mkvs(lm, facts, CONTEXTS, hparams)
    assert len({mkv.steps for mkv in together}) > 1 and any(mkv.loss < hparams.stop for mkv in together)
    for fact, mkv in zip(facts, together, strict=True):
        wanted = textbook.fast_optimum(lm, fact, CONTEXTS, hparams)
        (alone,) = compute_mkvs(lm, [fact], CONTEXTS, hparams)
        assert wanted.steps == mkv.steps == alone.steps
        assert relative(mkv.residual, wanted.z - mkv.h) < 1e-3 and relative(alone.z, mkv.z) < CLOSE


def test_a_step_along_the_gradient_runs_only_the_contexts_of_its_turn():
    lm, rows = tiny("llama"), []
    lm.layers[-1].register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    compute_mkvs(lm, FACTS, CONTEXTS, FAST)
    assert rows[-10:] == [2 * len(FACTS), len(FACTS)] * FAST.steps


def test_every_prefix_has_its_turn_and_none_asks_for_all():
    lm = tiny("llama")
    problem = objective(lm, FACTS, torch.arange(3), (*CONTEXTS, "A third one. "), HPARAMS.layer + 1)
    seen = [problem.turn(number, 2).prompts.cut for number in range(3)]
    cut = problem.prompts.cut.unflatten(0, (3, 4))
    for rows, chosen in zip(seen, [[0, 1, 2], [0, 3, 1], [0, 2, 3]], strict=True):
        assert torch.equal(rows, cut[:, chosen].flatten(0, 1))
    assert problem.turn(1, None) is problem and problem.turn(1, 3) is problem
    assert float(problem.turn(1, 2).token_weight.sum()) == pytest.approx(3)


def test_the_fast_variant_has_names_of_its_own_and_the_default_has_its_old_ones():
    """The shipped MKVs are found by these names."""
    lm, plain = tiny("llama"), HPARAMS.named()
    old = "layers steps lr clamp weight_decay kl_factor stop lam"  # as before there was a choice
    assert list(plain) == old.split()
    names = [
        names_of(lm, FACTS[:1], [[0]], "memit", CONTEXTS, hparams)
        for hparams in (HPARAMS, FAST, replace(FAST, optimiser=NormalisedGradient(0.1)), HPARAMS.fast())
    ]
    assert len({name for (name,) in names}) == len(names)
