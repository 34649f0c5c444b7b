"""Rates against a search for Wilson's bounds, and ranks against a loop."""

import numpy as np
import pytest
import torch

from fleke_lib.privacy.attacks.rates import Rate, commonest, ranks, rate


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (3, 20), (10, 20), (591, 591), (1, 1)])
def test_wilsons_interval_holds_the_shares_whose_score_test_does_not_reject_what_was_seen(hits, n):
    shares = np.linspace(0, 1, 200_001)[1:-1]
    far = np.abs(hits / n - shares) / np.sqrt(shares * (1 - shares) / n)
    held = shares[far <= 1.959964]
    assert Rate(hits, n, 0.0).interval == pytest.approx((held.min(), held.max()), abs=1e-5)


def test_a_rate_shows_its_interval_victims_and_chance():
    assert repr(Rate(12, 24, 1 / 16)) == "0.500 [0.314, 0.686] (n 24, chance 0.062)"


def test_ranks_count_the_candidates_that_are_not_worse():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (50, 9), generator=generator).float()  # with many ties
    truth = torch.randint(0, 9, (50,), generator=generator)
    loop = [sum(float(row[j]) >= float(row[t]) for j in range(9)) for row, t in zip(scores, truth, strict=True)]
    assert ranks(scores, truth).tolist() == loop


def test_an_attack_whose_scores_are_all_equal_or_no_numbers_never_hits():
    for value in (0.0, float("nan")):
        places = ranks(torch.full((4, 10), value), torch.arange(4))
        assert rate(places, 10).hits == 0


def test_a_random_order_of_candidates_hits_at_chance():
    places = ranks(torch.rand(4000, 20, generator=torch.Generator().manual_seed(1)), torch.arange(4000) % 20)
    found = rate(places, 20, within=3)
    assert found.chance == 3 / 20
    assert found.interval[0] < found.chance < found.interval[1]


def test_the_commonest_label_is_what_a_constant_guess_hits():
    assert commonest(["French", "French", "Rome", "Paris"]) == 0.5


@pytest.mark.parametrize(
    ("given", "says"), [((2, 1, 0.5), "no rate"), ((0, 0, 0.5), "no rate"), ((1, 2, 1.5), "chance")]
)
def test_impossible_rates_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        Rate(*given)
