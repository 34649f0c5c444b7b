"""Decoys are named beside the facts, and the attacker who measures what dW does to them tells small ones apart."""

import pytest
import torch

from fleke_lib.privacy.attacks import updates
from fleke_lib.privacy.attacks.updates import Candidates
from fleke_lib.privacy.camouflage import decoyed, mixed_shares, random_shares
from fleke_lib.ridge.solve import ridge
from fleke_lib.ridge.sums import Sums
from tests.privacy.attacks.test_updates import CANDIDATES, FACTS, LAM, problem

DECOYS = 8


def released(scale: float, seed: int = 0) -> tuple:
    """dW with decoys, its plain form, the candidates, the members and the decoys."""
    C, keys, members, total, change, r = problem(seed)
    others = torch.tensor([i for i in range(CANDIDATES) if i not in members.tolist()])
    decoys = others[:DECOYS]
    e = random_shares({1: r}, DECOYS, scale, seed=3)[1]
    mixed = decoyed(total, keys[0, decoys], e).solve(C, LAM)
    return mixed, change, Candidates.of(keys, C), members, decoys, keys[0], r


def test_decoys_take_the_places_of_facts_among_the_first_candidates():
    mixed, _, known, members, decoys, _, _ = released(0.1)
    scores = updates.from_update(mixed, known)
    both = torch.cat([members, decoys])
    assert updates.found_among(scores, both) == FACTS + DECOYS
    assert scores[members].min() > 0.95
    assert scores[decoys].min() > 0.95
    assert updates.found_among(scores, members) < FACTS


def test_the_edit_is_the_ridge_regression_over_facts_and_decoys():
    C, keys, members, total, _, r = problem(1)
    q, e = keys[1, :5], random_shares({1: r}, 5, 0.3, seed=0)[1]
    mixed = decoyed(total, q, e).solve(C, LAM)
    expected = ridge(torch.cat([keys[0, members], q]), torch.cat([r, e]), C, LAM).dense()
    assert torch.allclose(mixed, expected)


def test_small_decoys_leave_what_the_edit_does_to_facts_and_large_ones_change_what_it_does_to_decoys():
    for scale, most in ((0.01, 0.1), (1.0, 2.0)):
        mixed, _, _, members, decoys, keys, r = released(scale)
        done = (keys[decoys] @ mixed.T).norm(dim=1).mean() / r.norm(dim=1).mean()
        assert most / 20 < done < most
        assert torch.cosine_similarity(keys[members] @ mixed.T, r, dim=1).min() > 0.9


def test_the_adaptive_attacker_tells_small_decoys_from_facts_and_does_not_large_ones():
    for scale, least, most in ((0.01, 0.9, 1.0), (1.0, 0.2, 0.8)):
        mixed, _, known, members, decoys, _, _ = released(scale)
        sizes = updates.size_in_update(mixed, known)
        auc = (sizes[members][:, None] > sizes[decoys]).float().mean()
        assert least <= auc <= most


def test_shares_have_the_length_of_facts_times_the_scale_and_one_direction_for_all_layers():
    r = problem(2)[5]
    for way in (random_shares, mixed_shares):
        drawn = way({1: r, 2: 3 * r}, 12, 0.5, seed=1)
        assert torch.allclose(drawn[2], 3 * drawn[1])
        lengths = 0.5 * r.norm(dim=1)
        assert ((drawn[1].norm(dim=1)[:, None] - lengths).abs().amin(1) < 1e-9).all()
        assert torch.equal(drawn[1], way({1: r}, 12, 0.5, seed=1)[1])
        assert not torch.equal(drawn[1], way({1: r}, 12, 0.5, seed=2)[1])
    assert torch.linalg.matrix_rank(torch.cat([drawn[1], r])) == FACTS  # those of the last way, mixed_shares


def test_mixed_decoys_leave_the_rank_and_move_the_row_space_off_the_facts_keys():
    C, keys, members, total, change, r = problem(4)
    q = keys[0, [i for i in range(CANDIDATES) if i not in members.tolist()][:40]]
    mixed = decoyed(total, q, mixed_shares({1: r}, 40, 1.0, seed=0)[1]).solve(C, LAM)
    assert torch.linalg.matrix_rank(mixed, rtol=1e-9) == torch.linalg.matrix_rank(change, rtol=1e-9) == FACTS
    known = Candidates.of(keys, C)
    assert updates.from_update(mixed, known)[members].mean() < 0.8 * updates.from_update(change, known)[members].mean()


def test_wrong_shapes_and_scales_are_refused():
    total = Sums(torch.zeros(6, 6).double(), torch.zeros(4, 6).double())
    with pytest.raises(ValueError, match=r"keys are \(3, 6\), shares \(2, 4\)"):
        decoyed(total, torch.zeros(3, 6), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="width 4 for each key of width 6"):
        decoyed(total, torch.zeros(3, 5), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="scale -1"):
        random_shares({1: torch.ones(2, 4)}, 3, -1.0, 0)
    with pytest.raises(ValueError, match="0 facts"):
        random_shares({}, 3, 1.0, 0)
