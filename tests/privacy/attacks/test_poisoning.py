"""Members that take a fact out of everybody's edit, and how far each rule stops them."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.edit import trajectory
from fleke_lib.federation.packets.conflicts import own_wins, resolve
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.registry.leverage import Leverage
from fleke_lib.privacy.attacks.poisoning import cancelling, erasing, mistagged
from tests.federation.sample_packets import D_MLP, LAYERS, RULES, TAGS, fact_of, packet_of

C = {layer: torch.eye(D_MLP, dtype=torch.float64) for layer in LAYERS}
LAM = 3.0
HONEST = [packet_of(seed, f"client {seed % 4}") for seed in range(5)]
VICTIM = HONEST[0]
CARRIERS = [packet_of(20 + i, "mallory") for i in range(8)]
BOUNDED = replace(RULES, leverage=Leverage.of(C, LAYERS), key=4.0, axis=0.05)


def delivered(packets, victim=VICTIM) -> float:
    """The fraction of the victim's shares that the edit brings for its mean keys, over all layers."""
    edit = trajectory(packets, C, LAM, coupling=0)
    brought = sum(edit.delta(layer).double() @ victim.mean(layer) @ victim.shares[layer].double() for layer in LAYERS)
    return float(brought / sum(share.double().square().sum() for share in victim.shares.values()))


def test_axes_of_ordinary_norm_along_a_key_erase_a_fact():
    honest = delivered(HONEST)
    norm = max(float(axis.norm()) for packet in HONEST for axis in [*packet.means.values()])
    found = []
    for liars in (1, 4, 8):
        packets = [erasing(one, [VICTIM], RULES, "mallory", 0) for one in CARRIERS[:liars]]
        for packet in packets:
            assert RULES.check(packet.data).id == packet.id
            assert max(float(axis.norm()) for axis in packet.axes.values()) <= norm
        found.append(delivered([*HONEST, *packets]))
    assert honest > 0.6 and found[0] < 0.65 * honest and found[1] < 0.3 * honest and found[2] < 0.2 * honest
    others = [delivered([*HONEST, *packets], other) for other in HONEST[1:]]
    assert min(others) > 0.5  # it is aimed


def test_bounded_leverage_keeps_the_fact():
    loose = [erasing(one, [VICTIM], RULES, "mallory", 0) for one in CARRIERS]
    for packet in loose:
        with pytest.raises(Refused, match="has an axis with"):
            BOUNDED.check(packet.data)
    packets = [erasing(one, [VICTIM], BOUNDED, "mallory", 0, times=9) for one in CARRIERS]
    for packet in packets:
        assert BOUNDED.check(packet.data).id == packet.id
    assert delivered([*HONEST, *packets]) > 2 * delivered([*HONEST, *loose])


def test_an_opposite_share_at_a_copied_key_cancels_unless_the_keys_are_compared():
    tags = {"question": TAGS.question(fact_of(99)), "answer": TAGS.answer(fact_of(99))}
    liar = cancelling(VICTIM, tags, "mallory", 1)
    assert RULES.check(liar.data).id == liar.id
    assert abs(delivered([*HONEST, liar])) < 0.1 * delivered(HONEST)
    kept = resolve([], [*HONEST, liar], own_wins)
    assert delivered(sorted(kept, key=lambda packet: packet.content)) == pytest.approx(delivered(HONEST), rel=1e-9)
    turned = cancelling(VICTIM, tags, "mallory", 1, turned=0.2)
    assert delivered([*HONEST, turned]) < 0.6 * delivered(HONEST)
    kept = resolve([], [*HONEST, turned], own_wins)
    assert delivered(sorted(kept, key=lambda packet: packet.content)) == pytest.approx(delivered(HONEST), rel=1e-9)
    for less in ({"turned": 0.9}, {"opposed": 0.19}):  # who knows the rule does less harm
        liar = cancelling(VICTIM, tags, "mallory", 1, **less)
        assert len(resolve([], [*HONEST, liar], own_wins)) == len(HONEST) + 1
        assert 0.4 * delivered(HONEST) < delivered([*HONEST, liar]) < 0.9 * delivered(HONEST)


def test_a_tag_is_what_its_sender_says():
    liar = mistagged(CARRIERS[0], VICTIM, "mallory", 0)
    assert (liar.question, liar.answer) == (VICTIM.question, VICTIM.answer)
    assert torch.equal(liar.z, CARRIERS[0].z.half().float()) and RULES.check(liar.data).client == "mallory"


def test_axes_along_both_keys_of_a_victim():
    liar = erasing(CARRIERS[0], HONEST[:2], RULES, "mallory", 0, bases=True)
    for layer in LAYERS:
        keys = torch.stack([key[layer] for one in HONEST[:2] for key in (one.means, one.bases)])
        torch.testing.assert_close(liar.axes[layer], keys, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="3 victims are given, but a packet has 4 axes, 2 for each victim"):
        erasing(CARRIERS[0], HONEST[:3], RULES, "mallory", 0, bases=True)


def test_more_victims_than_axes():
    with pytest.raises(ValueError, match="5 victims are given, but a packet has 4 axes, 1 for each"):
        erasing(CARRIERS[0], HONEST, RULES, "mallory", 0)
