"""Conflicts that tags do not show: one key under two question tags, with two shares."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.federation.packets.conflicts import NEAR, abstain, near_equal, oldest, own_wins, resolve
from fleke_lib.privacy.attacks.poisoning import cancelling
from tests.federation.sample_packets import TAGS, fact_of, packet_of

OTHER = {"question": TAGS.question(fact_of(99)), "answer": TAGS.answer(fact_of(99))}
HONEST = [packet_of(seed, f"client {seed % 3}") for seed in range(6)]
VICTIM = HONEST[2]


def ids(packets) -> list[str]:
    return [packet.id for packet in packets]


def test_a_copied_key_with_another_share_is_found():
    liar = cancelling(VICTIM, OTHER, "mallory", 1)
    assert [ids(pair) for pair in near_equal([*HONEST, liar])] == [ids([VICTIM, liar])]
    assert near_equal(HONEST) == [] == near_equal([])


def test_keys_are_near_by_their_cosine_and_shares_differ_by_theirs():
    for turned in (0.02, 0.5):  # the cosine of the angle with this tangent is 1 / sqrt(1 + turned^2)
        liar = cancelling(VICTIM, OTHER, "mallory", 1, turned=turned)
        assert bool(near_equal([VICTIM, liar])) == ((1 + turned**2) ** -0.5 > NEAR)
    liar = cancelling(VICTIM, OTHER, "mallory", 1)
    assert not near_equal([VICTIM, replace(liar, shares=VICTIM.shares)])  # the same wish under another tag
    assert not near_equal([VICTIM, replace(liar, question=VICTIM.question)])  # the tags show this one


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
