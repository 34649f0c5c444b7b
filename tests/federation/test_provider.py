"""The provider: its results depend, bit for bit, on the fact alone, and no result is mistaken for another's."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fleke_lib.edit.trajectories import trajectories
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import pack
from fleke_lib.federation.provider import PreparedFact, VectorProvider
from fleke_lib.federation.warm_start import COLD, Start, mapped, warm_starts
from fleke_lib.mkv.edit_map import EditMap, bare_states, teach
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.mkv.store import shipped_mkvs, stored_mkvs
from tests.federation.sample_packets import TAGS
from tests.federation.small import facts, scenario
from tests.textbook.samples import relative

# Two questions that begin with their subject: its key is the same in both.
TWINS = [Fact("Ulm", "{} is the capital of", "France", "Italy"), Fact("Ulm", "{} plays the sport of", "Rome", "Berlin")]
WHOLE = Compression(8, "float32")  # every bit of what was made is in the packet


def packets(wanted: Sequence[Fact], prepared: Sequence[PreparedFact]) -> list[str]:
    """The ids of the packets that a client would publish."""
    tags = [{"question": TAGS.question(fact), "answer": TAGS.answer(fact)} for fact in wanted]
    return [pack(one.trajectory, one.mkv, "ada", 0, own, WHOLE).id for one, own in zip(prepared, tags, strict=True)]


def alone(lm) -> VectorProvider:
    return VectorProvider(lm, lambda missing: compute_mkvs(lm, missing))


def taught(teachers: Sequence[str] = (), lam: float = 1.0) -> EditMap:
    """A map taught by three facts of the small federation."""
    lm, provider, _ = scenario()
    return EditMap.solve(teach(lm, facts()[:3], [prepared.mkv for prepared in provider(facts()[:3])], teachers), lam)


@pytest.mark.slow
@settings(max_examples=4, phases=[Phase.generate])  # to shrink a failure would optimise for minutes
@given(st.permutations(range(9)), st.lists(st.integers(1, 8), max_size=3), st.sampled_from(["cold", "mapped"]))
def test_providers_of_different_histories_compute_the_same_bits(order, cuts, begin):
    """One makes all facts at once; the other some at a time, in another order, and some that started otherwise."""
    lm, _, _ = scenario()
    wanted = facts()[::2]
    start, other = (COLD, mapped(taught())) if begin == "cold" else (mapped(taught()), COLD)
    one, two = alone(lm), alone(lm)
    together = packets(wanted, one(wanted, [start] * len(wanted)))
    edges = sorted({0, *cuts, len(wanted)})
    for first, last in pairwise(edges):
        part = [wanted[i] for i in order[first:last]]
        two(part[:1], [other])
        two(part, [start] * len(part))
    assert packets(wanted, two(wanted, [start] * len(wanted))) == together


def test_from_other_packets_too_the_bits_are_the_same():
    lm, provider, _ = scenario()
    tags = [{name: getattr(TAGS, name)(fact) for name in ("question", "answer", "target")} for fact in facts()]
    published = [
        pack(prepared.trajectory, prepared.mkv, "ada", 0, own)
        for prepared, own in zip(provider(facts()), tags, strict=True)
    ]
    wanted = facts()[:4]
    starts = warm_starts(wanted, published[6:], TAGS)
    assert not any(start.cold for start in starts)
    one, two = alone(lm), alone(lm)
    each = [two([fact], [start])[0] for fact, start in zip(wanted[::-1], starts[::-1], strict=True)][::-1]
    assert packets(wanted, one(wanted, starts)) == packets(wanted, each)


def test_what_is_made_alone_is_what_is_made_together_but_for_rounding():
    lm, provider, _ = scenario()
    together = VectorProvider(lm, lambda missing: compute_mkvs(lm, missing), batch=16)
    for one, other in zip(provider(facts()), together(facts()), strict=True):
        assert relative(one.mkv.z, other.mkv.z) < 1e-5
        for layer in one.trajectory.layers:
            assert relative(one.trajectory.keys[layer], other.trajectory.keys[layer]) < 1e-4
            assert relative(one.trajectory.shares[layer], other.trajectory.shares[layer]) < 1e-3


def test_compute_is_asked_for_one_batch_at_a_time():
    lm, provider, _ = scenario()
    asked = []

    def compute(missing):
        asked.append(list(missing))
        return [prepared.mkv for prepared in provider(missing)]

    prepared = VectorProvider(lm, compute, batch=4)(facts()[:10])
    assert asked == [facts()[:4], facts()[4:8], facts()[8:10]]
    for one, other in zip(prepared, provider(facts()[:10]), strict=True):
        assert torch.equal(one.mkv.z, other.mkv.z)
    with pytest.raises(ValueError, match="batch is 0"):
        VectorProvider(lm, batch=0)


@pytest.mark.parametrize("batch", [1, 4])
def test_facts_of_one_key_have_each_its_own_z(batch, tmp_path, monkeypatch):
    """With a common z it would matter who had come with whom."""
    lm, _, _ = scenario()
    found = []
    for turn in ([TWINS], [TWINS[:1], TWINS[1:]], [TWINS[1:], TWINS]):
        monkeypatch.setenv("FLEKE_CACHE", str(tmp_path / str(len(found))))
        provider = VectorProvider(lm, batch=batch)
        for part in turn:
            provider(part)
        found.append(provider(TWINS))
    if batch == 1:
        assert packets(TWINS, found[0]) == packets(TWINS, found[1]) == packets(TWINS, found[2])
    for one in found:
        for prepared, alone in zip(one, found[1], strict=True):
            assert relative(prepared.mkv.residual, alone.mkv.residual) < 1e-4
        assert relative(one[0].mkv.residual, one[1].mkv.residual) > 0.1


def test_by_default_a_packet_depends_on_its_fact_alone_optimised_or_found_on_disk(tmp_path, monkeypatch):
    """Whoever else is asked, in whichever call, with a full cache or an empty one: README's withdrawal needs it."""
    lm, _, _ = scenario()
    wanted = [*facts()[:5], *TWINS]
    found = []
    for name, turn in {"all": [wanted], "pairs": [wanted[3:], wanted[:3]], "full": [wanted[::-1]]}.items():
        monkeypatch.setenv("FLEKE_CACHE", str(tmp_path / name.replace("full", "all")))
        provider = VectorProvider(lm)
        for part in turn:
            provider(part)
        found.append(packets(wanted, provider(wanted)))
    assert found[0] == found[1] == found[2]


def test_two_answers_to_one_question_have_each_its_own_z(tmp_path, monkeypatch):
    """Else a packet would carry both answers, and withdrawing one of them would leave it in the other's packet."""
    lm, _, _ = scenario()
    fact = facts()[0]
    rivals = [fact, replace(fact, target_new="Berlin"), facts()[1]]
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path))
    together = VectorProvider(lm)(rivals)
    assert packets(rivals, together) == packets(rivals, [VectorProvider(lm)([one])[0] for one in rivals])
    assert relative(together[0].mkv.residual, together[1].mkv.residual) > 0.1


def test_hyperparameters_may_be_given_where_the_preset_has_none_that_fit(tmp_path, monkeypatch):
    lm, _, _ = scenario()
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path))
    hparams, fact, start = replace(lm.preset.memit, steps=6, lr=0.1), facts()[:1], Start(0.3 * torch.ones(lm.d_model))
    provider = VectorProvider(lm, hparams=hparams)
    (cold,), (warm,) = provider(fact), provider(fact, [start])
    (by_preset,) = VectorProvider(lm)(fact)
    assert torch.equal(cold.mkv.z, compute_mkvs(lm, fact, hparams=hparams)[0].z)
    assert torch.equal(warm.mkv.z, compute_mkvs(lm, fact, hparams=hparams, starts=start.residual[None])[0].z)
    assert relative(cold.mkv.residual, by_preset.mkv.residual) > 0.1
    assert torch.equal(provider.without(fact)(fact)[0].mkv.z, cold.mkv.z)
    with pytest.raises(ValueError, match=r"layers \(2,\), but trajectories are made for \(1, 2\)"):
        VectorProvider(lm, hparams=replace(hparams, layers=(2,)))
    with pytest.raises(ValueError, match="hparams and compute"):
        VectorProvider(lm, lambda missing: compute_mkvs(lm, missing), hparams=hparams)


def test_the_store_is_asked_once_and_what_it_keeps_is_the_same_bits(tmp_path, monkeypatch):
    lm, _, _ = scenario()
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path))
    asked = []

    def store(lm, missing, **given):
        asked.append(len(missing))
        return stored_mkvs(lm, missing, **given)

    monkeypatch.setattr("fleke_lib.federation.provider.stored_mkvs", store)
    wanted = facts()[:6]
    first = packets(wanted, VectorProvider(lm)(wanted))
    assert asked == [6]
    later = VectorProvider(lm)
    assert packets(wanted, [later([fact])[0] for fact in wanted]) == first


def test_a_map_that_owes_nobody_is_not_a_cold_start():
    lm, provider, _ = scenario()
    pair = facts()[6:8]
    start = mapped(taught())
    assert start.sources == () and not start.cold
    warm, cold = provider(pair, [start, COLD]), provider(pair)
    wanted = compute_mkvs(lm, pair[:1], starts=taught().predict(lm, pair[:1]))[0]
    assert relative(warm[0].mkv.z, wanted.z) < 1e-5 and warm[0].sources == ()
    assert relative(warm[0].mkv.z, cold[0].mkv.z) > 1e-3
    assert warm[1] is cold[1]
    assert provider(pair, [mapped(taught()), COLD])[0] is warm[0]  # an equal map, taught again


def test_cold_and_warm_facts_may_come_together():
    lm, provider, _ = scenario()
    trio, start = facts()[6:9], Start(0.3 * torch.ones(lm.d_model))
    starts = [mapped(taught()), COLD, start]
    wanted = [provider([fact], [begin])[0].mkv.z for fact, begin in zip(trio, starts, strict=True)]
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        fresh = alone(lm)([trio[i] for i in order], [starts[i] for i in order])
        for i, prepared in zip(order, fresh, strict=True):
            assert relative(prepared.mkv.z, wanted[i]) < 1e-5


def test_a_map_is_asked_in_the_same_batches(monkeypatch):
    lm, _, _ = scenario()
    sizes, by = [], taught()
    run = bare_states
    monkeypatch.setattr(
        "fleke_lib.mkv.edit_map.bare_states", lambda *of, batch: sizes.append(batch) or run(*of, batch=batch)
    )
    alone(lm)(facts()[:3], [mapped(by)] * 3)
    assert sizes == [1]


def test_maps_that_differ_or_owe_others_are_told_apart():
    _, provider, _ = scenario()
    one = facts()[9:10]
    maps = [taught(), taught(lam=2.0), taught(("a", "b", "c")), taught(("a", "b", "d"))]
    prepared = [provider(one, [mapped(by)])[0] for by in maps]
    assert len({id(m) for m in prepared}) == len(maps)
    assert [m.sources for m in prepared] == [(), (), ("a", "b", "c"), ("a", "b", "d")]
    assert torch.equal(prepared[2].mkv.z, prepared[0].mkv.z) and not torch.equal(prepared[1].mkv.z, prepared[0].mkv.z)


def test_a_residual_that_owes_nobody_is_no_cold_start_either():
    lm, provider, _ = scenario()
    one = facts()[10:11]
    starts = [Start(size * torch.ones(lm.d_model)) for size in (0.1, 0.2)]
    prepared = [provider(one, [start])[0] for start in (*starts, COLD)]
    assert all(m.sources == () for m in prepared)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(prepared[first].mkv.z, prepared[second].mkv.z)


def test_a_start_is_one_thing_and_says_whose():
    lm, _, _ = scenario()
    with pytest.raises(ValueError, match="a residual and a map"):
        Start(torch.zeros(lm.d_model), map=taught())
    with pytest.raises(ValueError, match="has 0 sources, but 3 taught"):
        Start(map=taught(("a", "b", "c")))


@pytest.mark.model
def test_on_the_default_model_what_is_made_alone_depends_on_nothing_else(lm):
    wanted = load_facts("atlas", limit=3)
    first = VectorProvider(lm)(wanted)
    later = VectorProvider(lm, lambda missing: shipped_mkvs(lm, missing))
    later(wanted[2:])
    assert packets(wanted, later(wanted)) == packets(wanted, first)
    (alone,) = trajectories(lm, wanted[1:2], [first[1].mkv])
    assert all(torch.equal(alone.keys[layer], first[1].trajectory.keys[layer]) for layer in alone.layers)
