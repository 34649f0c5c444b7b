"""Neither who comes first nor who publishes a fact changes a bit of an edit; lambda comes from the model's preset."""

import functools
from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fleke_lib.edit import trajectory
from fleke_lib.edit.closed_form import LAMBDA, lambda_of
from fleke_lib.federation import baselines
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.packets.conflicts import majority, newest, own_wins
from fleke_lib.federation.partitioning import Part
from fleke_lib.federation.retrieval.policies import Everyone, Majority, Nobody, TopK
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.weights import cumulative, held, sequential
from fleke_lib.model.presets import PRESETS
from tests.federation.small import LAYERS, facts, scenario

# Several clients wish for one fact in one slot, and two for another answer to one of their questions.
WISHES = [
    Part("ada", (tuple(facts()[:3]), (facts()[7],)), ()),
    Part("bob", (tuple(facts()[1:4]), (facts()[6], facts()[7])), ()),
    Part("cleo", ((facts()[2], facts()[8]), (facts()[0],)), ()),
    Part("dan", ((replace(facts()[2], target_new="Rome"), facts()[9]), ()), ()),
    Part("eve", ((replace(facts()[2], target_new="Rome"), facts()[10]), (facts()[1],)), ()),
]
BEHAVIOURS = {
    "everyone": ClientConfig(Everyone()),
    "nearest, centred": ClientConfig(TopK(1)),
    "as published": ClientConfig(Majority(0.4), "raw", looks_back=False),
    "nobody reuses": ClientConfig(TopK(1), reuse=False),
}


@functools.cache
def ran(behaviour, order):
    lm, provider, _ = scenario()
    return run_fedit(
        lm, [WISHES[i] for i in order], BEHAVIOURS[behaviour], provider=provider, secret=b"the clients' own"
    )


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@settings(max_examples=4, phases=[Phase.generate])
@given(order=st.permutations(range(len(WISHES))))
def test_who_publishes_a_fact_that_several_wish_for_changes_no_bit(behaviour, order):
    """Ids differ then, since they name the publisher; choices, conflicts and sums go by what the packets say."""
    moments, runs = scenario()[2], [ran(behaviour, tuple(range(len(WISHES)))), ran(behaviour, tuple(order))]
    for part in WISHES:
        for rule in (own_wins, newest, majority):
            one, other = ([packet.content for packet in held(run, part.name, rule=rule)] for run in runs)
            assert one == other
        edits = [
            (cumulative(run, part.name, moments), [*sequential(run, part.name, moments).values()][-1]) for run in runs
        ]
        for one, other in zip(*edits, strict=True):
            assert all(torch.equal(one.delta(layer), other.delta(layer)) for layer in LAYERS)


def test_who_publishes_is_not_always_the_same():
    """Else the test above would show nothing."""
    one, two = ran("everyone", (0, 1, 2, 3, 4)), ran("everyone", (4, 3, 2, 1, 0))
    assert len(one.packets) == len(two.packets) and set(one.packets) != set(two.packets)


def test_baselines_are_sums_in_one_order():
    lm, provider, moments = scenario()
    prepared = [provider(facts()[i : i + 3]) for i in (0, 3, 6, 9)]
    paths = [[one.trajectory for one in some] for some in prepared]
    edits = baselines.local_only(paths, moments)
    clients = [facts()[i : i + 3] for i in (0, 3, 6, 9)]
    mkvs = [[one.mkv for one in some] for some in prepared]
    for order in ([3, 1, 0, 2], [2, 3, 1, 0], [1, 0, 3, 2]):
        pairs = [
            (baselines.fedsum([edits[i] for i in order]), baselines.fedsum(edits)),
            (
                baselines.fedavg([edits[i] for i in order], [i + 1 for i in order]),
                baselines.fedavg(edits, [1, 2, 3, 4]),
            ),
            (
                baselines.summed_statistics([paths[i] for i in order], moments),
                baselines.summed_statistics(paths, moments),
            ),
            (
                baselines.collabedit(lm, [clients[i] for i in order], [mkvs[i] for i in order], moments),
                baselines.collabedit(lm, clients, mkvs, moments),
            ),
        ]
        for one, other in pairs:
            assert all(torch.equal(one.delta(layer), other.delta(layer)) for layer in LAYERS)


def test_lambda_is_that_of_the_models_preset():
    """The measured one, or else MEMIT's; what is given wins."""
    lm, provider, moments = scenario()
    run = run_fedit(lm, [Part("a", (tuple(facts()[:3]),), ())], Nobody(), provider=provider, secret=b"the clients' own")
    assert [lambda_of(lm.preset), lambda_of(replace(lm.preset, trajectory_lam=None))] == [100.0, 1.0]
    for lam in (100.0, None, 7.0):
        other = replace(lm, preset=replace(lm.preset, trajectory_lam=lam))
        mine = replace(run, config=replace(run.config, lm=other))
        expected = trajectory(held(run, "a"), moments, lam or 1.0).delta(1)
        assert torch.equal(cumulative(mine, "a", moments).delta(1), expected)
        torch.testing.assert_close(sequential(mine, "a", moments)[0].delta(1), expected)
        assert torch.equal(
            cumulative(mine, "a", moments, lam=3.0).delta(1), trajectory(held(run, "a"), moments, 3.0).delta(1)
        )
    assert lambda_of(PRESETS["smollm2-135m-instruct"]) == LAMBDA == 100.0
    assert lambda_of(PRESETS["gpt-j-6b"]) == PRESETS["gpt-j-6b"].memit.lam
