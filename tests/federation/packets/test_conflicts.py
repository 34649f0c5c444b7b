"""Conflicts that tags do not show: near keys with shares that undo each other; and tags that show a wrong one."""

import itertools
from dataclasses import replace

import pytest
import torch

from fleke_lib.federation.packets.conflicts import (
    NEAR,
    UNDONE,
    abstain,
    near_equal,
    newest,
    oldest,
    own_wins,
    resolve,
)
from fleke_lib.privacy.attacks.poisoning import cancelling, mistagged
from tests.federation.sample_packets import LAYERS, TAGS, fact_of, packet_of

OTHER = {"question": TAGS.question(fact_of(99)), "answer": TAGS.answer(fact_of(99))}
HONEST = [packet_of(seed, f"client {seed % 3}") for seed in range(6)]
VICTIM = HONEST[2]


def ids(packets) -> list[str]:
    return [packet.id for packet in packets]


def test_a_copied_key_with_another_share_is_found():
    liar = cancelling(VICTIM, OTHER, "mallory", 1)
    assert [ids(pair) for pair in near_equal([*HONEST, liar])] == [ids([VICTIM, liar])]
    assert near_equal(HONEST) == [] == near_equal([])


def test_keys_are_near_by_their_cosine_and_shares_undo_each_other():
    for turned in (0.02, 0.2, 0.6, 3.0):  # the cosine of the angle with this tangent is 1 / sqrt(1 + turned^2)
        liar = cancelling(VICTIM, OTHER, "mallory", 1, turned=turned)
        assert bool(near_equal([VICTIM, liar])) == ((1 + turned**2) ** -0.5 > NEAR)
    for opposed in (1.0, 0.5, 0.3, 0.15, 0.0, -0.9):
        liar = cancelling(VICTIM, OTHER, "mallory", 1, opposed=opposed)
        assert bool(near_equal([VICTIM, liar])) == (opposed > UNDONE)
    liar = cancelling(VICTIM, OTHER, "mallory", 1)
    assert not near_equal([VICTIM, replace(liar, question=VICTIM.question)])  # the tags show this one


def test_two_facts_about_one_subject_are_no_conflict():
    """Their questions begin with the subject: one key on the base model, and shares that have little in common."""
    other = cancelling(VICTIM, OTHER, "grace", 0, opposed=0.05)
    assert torch.equal(other.means[LAYERS[0]], VICTIM.means[LAYERS[0]]) and not near_equal([VICTIM, other])
    assert set(ids(resolve([], [*HONEST, other], abstain))) == {*ids(HONEST), other.id}


def test_a_short_share_is_compared_with_itself():
    """A share ten times as long undoes the shorter one's fact, although their cosine is small."""
    long = cancelling(VICTIM, OTHER, "mallory", 1, opposed=0.1)
    assert not near_equal([VICTIM, long])
    longer = replace(long, shares={layer: 10 * share for layer, share in long.shares.items()})
    assert near_equal([VICTIM, longer])


@pytest.mark.parametrize("layer", [*LAYERS, None])
def test_every_layer_is_compared_and_the_whole_residual(layer):
    """Whoever copies a key and turns the share around at one layer alone, or only z."""
    whole = cancelling(VICTIM, OTHER, "mallory", 1)
    liar = replace(whole, shares=VICTIM.shares | ({layer: whole.shares[layer]} if layer else {}))
    if layer:
        other = HONEST[0]
        liar = replace(liar, z=VICTIM.z, means=other.means | {layer: VICTIM.means[layer]})
    assert [ids(pair) for pair in near_equal([VICTIM, liar])] == [ids([VICTIM, liar])]


def test_whoever_takes_a_tag_for_other_vectors_displaces_nobody():
    """The earliest and the latest slot, the same answer and another one: keys that are not near are no conflict."""
    for slot, answer in itertools.product((0, 9), (VICTIM.answer, OTHER["answer"])):
        liar = replace(mistagged(packet_of(50), VICTIM, "mallory", slot), answer=answer)
        for rule in (own_wins, newest, oldest, abstain):
            assert set(ids(resolve([], [liar, *HONEST], rule))) == {liar.id, *ids(HONEST)}
            assert set(ids(resolve([VICTIM], [liar], rule))) == {liar.id, VICTIM.id}
    near = replace(VICTIM, id="another", answer=OTHER["answer"], slot=9)
    assert ids(resolve([], [*HONEST, near], newest)) == ids([*HONEST[:2], near, *HONEST[3:]])


def test_a_copied_key_displaces_nobodys_packet():
    liar = cancelling(VICTIM, OTHER, "mallory", 1)
    rest = [packet for packet in HONEST if packet is not VICTIM]
    assert set(ids(resolve([VICTIM], [*rest, liar], own_wins))) == set(ids(HONEST))
    assert set(ids(resolve([], [liar, *HONEST], own_wins))) == set(ids(HONEST))
    assert set(ids(resolve([], [liar, *HONEST], abstain))) == set(ids(rest))
    assert set(ids(resolve([], [liar, *HONEST], oldest))) == set(ids(HONEST))


def test_a_client_keeps_all_its_own_packets():
    """Two of its facts have nearly one key; a third packet near both joins their questions."""
    one = packet_of(0)
    near = replace(cancelling(one, OTHER, "ada", 0), client="ada")
    third = {"question": TAGS.question(fact_of(98)), "answer": TAGS.answer(fact_of(98))}
    liar = cancelling(one, third, "mallory", 0)
    liar = replace(liar, shares={layer: torch.roll(share, 1) for layer, share in liar.shares.items()})
    assert len(near_equal([one, near, liar])) == 3
    assert ids(resolve([one, near], [], abstain)) == ids([one, near])
    assert set(ids(resolve([one, near], [liar], own_wins))) == set(ids([one, near]))


@pytest.mark.parametrize("rule", [own_wins, oldest, abstain])
def test_without_conflicts_every_packet_stays_in_its_order(rule):
    assert ids(resolve(HONEST[:2], HONEST[2:], rule)) == ids(HONEST)
