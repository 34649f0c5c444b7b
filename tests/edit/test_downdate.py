"""Removing facts from a solved edit and adding some: against a solve from scratch and the leave-one-out identity.

A downdate is of the edit with coupling 0: with coupling, a fact that leaves changes the keys of all that stay.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fleke_lib.edit import trajectory
from fleke_lib.edit.downdate import factorise
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import pack
from tests.federation.small import LAYERS, facts, scenario


def paths():
    return [made.trajectory for made in scenario()[1](facts())]


def packets(axes, means_only=False):
    """Of the trajectories, or of trajectories whose only key is the mean key; these leave nothing out with 0 axes."""
    made = scenario()[1](facts())
    if means_only:
        made = [replace(one, trajectory=mean_alone(one.trajectory)) for one in made]
    tags = [{"question": f"{i:<064}", "answer": "1" * 64} for i in range(10, 10 + len(made))]
    compression = Compression(axes, "float32")
    return [pack(m.trajectory, m.mkv, "client", 0, tag, compression) for m, tag in zip(made, tags, strict=True)]


def mean_alone(path):
    return replace(path, keys={i: path.mean(i).float()[None] for i in path.layers}, bystanders={})


def gap(one, other):
    return max(float((one.delta(i) - other.delta(i)).norm() / other.delta(i).norm()) for i in LAYERS)


def test_what_is_kept_is_the_closed_form():
    C = scenario()[2]
    for kind in (paths(), packets(1)):
        assert gap(factorise(kind, C, 0.7).edit(), trajectory(kind, C, 0.7, coupling=0)) < 1e-12
        assert gap(factorise(kind, C, 0.7).edit(), trajectory(kind, C, 0.7)) > 1e-6, "these layers do not deliver"


WHOLE = 30  # more axes than a fact here has rows


@pytest.mark.parametrize("kind", [paths, lambda: packets(WHOLE), lambda: packets(0, means_only=True)])
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_leaving_and_joining_is_solving_anew(kind, data):
    everything, C = kind(), scenario()[2]
    order = data.draw(st.permutations(range(len(everything))))
    first, stop = data.draw(st.integers(0, 17)), data.draw(st.integers(1, 18))
    before, after = order[:stop], order[first:]  # facts only in `before` leave, facts only in `after` join
    gone = [everything[i] for i in before if i not in after]
    come = [everything[i] for i in after if i not in before]
    changed = factorise([everything[i] for i in before], C, 0.5).changed(gone, come)
    assert gap(changed, trajectory([everything[i] for i in after], C, 0.5, coupling=0)) < 1e-9


def test_packets_that_leave_out_a_part_are_refused_in_one_sentence():
    everything, C = packets(1), scenario()[2]
    system = factorise(everything, C, 0.5)
    for gone, come in ((everything[:2], ()), (packets(WHOLE)[:1], everything[:2])):
        with pytest.raises(ValueError, match=r"^2 contributions leave out a part .*without its trace\.$"):
            system.changed(gone, come)
    assert gap(system.changed(), system.edit()) == 0


def test_the_leave_one_out_identity():
    """By hand: the residual of the fact over one minus its leverage, along its own direction."""
    everything, C = packets(0, means_only=True), scenario()[2]
    system = factorise(everything, C, 0.5)
    without = system.changed(gone=everything[:1])
    for layer in LAYERS:
        m, r = everything[0].mean(layer).double(), everything[0].shares[layer].double()
        A = 0.5 * C[layer] + sum(torch.outer(p.mean(layer).double(), p.mean(layer).double()) for p in everything)
        dW, direction = system.edit().delta(layer), torch.linalg.solve(A, m)
        by_hand = dW - torch.outer(r - dW @ m, direction) / (1 - m @ direction)
        assert torch.allclose(without.delta(layer), by_hand, rtol=1e-9, atol=1e-12)


def test_nothing_gone_is_nothing_changed():
    system = factorise(paths(), scenario()[2])
    assert all(torch.equal(system.changed().delta(i), system.edit().delta(i)) for i in LAYERS)


def test_a_singular_system_gets_one_sentence():
    with pytest.raises(ValueError, match="64 unknowns is singular"):
        factorise(paths()[:1], {layer: torch.zeros_like(C) for layer, C in scenario()[2].items()}, 1.0)
