"""The recommender: the wheel's data, weights against scikit-learn's ridge, withdrawals against who never joined."""

import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from fleke_lib.beyond import recommender
from fleke_lib.beyond.rows import LAYER, identity, row_sums
from fleke_lib.edit.downdate import factorise


@pytest.fixture(scope="module")
def ratings():
    return recommender.movielens()


@pytest.fixture(scope="module")
def small(ratings):
    """Thirty users of three regions, after a panel of sixty."""
    base = recommender.base_vectors(ratings.pick(range(60)), width=12)
    users = ratings.pick(range(60, 90))
    return users, recommender.user_rows(users, base), base


def test_the_wheel_carries_the_expected_table_and_is_not_imported(ratings):
    assert ratings.seen.shape == (943, 1682) and len(ratings.titles) == 1682
    assert np.count_nonzero(ratings.seen) + 20_000 == pytest.approx(100_000, abs=500)
    assert not ((ratings.seen > 0) & ratings.later).any()
    assert set(np.unique(ratings.seen)) == {0, 1, 2, 3, 4, 5}
    assert ratings.titles[0] == "Toy Story (1995)" and min(ratings.ages) == 7
    assert set(ratings.regions) == {*"0123456789", "abroad"}
    assert "recbole" not in sys.modules


def test_another_file_is_refused(monkeypatch):
    monkeypatch.setitem(recommender.FILES, "item", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        recommender.movielens()


def test_weights_are_those_of_scikit_learns_ridge(small):
    users, rows, _ = small
    W = recommender.solved(recommender.regional(rows, users.regions), lam=3.0)
    keys, values = (np.stack([getattr(row, name).numpy() for row in rows]) for name in ("key", "value"))
    np.testing.assert_allclose(W.numpy(), Ridge(3.0, fit_intercept=False).fit(keys, values).coef_, atol=1e-10)


def test_keys_depend_on_their_user_alone(small):
    users, rows, base = small
    alone = recommender.user_rows(users.pick([7]), base)[0]
    assert torch.equal(alone.key, rows[7].key) and torch.equal(alone.value, rows[7].value)
    assert float(rows[7].key[1:].norm()) == pytest.approx(1)


@pytest.mark.parametrize("leaves", ["one user", "five users", "a region"])
def test_a_withdrawal_gives_the_weights_of_who_never_joined(small, leaves):
    users, rows, base = small
    region = users.regions[0]
    out = {
        "one user": {3},
        "five users": {0, 4, 5, 11, 29},
        "a region": {i for i in range(30) if users.regions[i] == region},
    }
    kept = [i for i in range(30) if i not in out[leaves]]
    never = users.pick(kept)
    control = recommender.solved(recommender.regional(recommender.user_rows(never, base), never.regions))
    replayed = recommender.solved(recommender.regional([rows[i] for i in kept], [users.regions[i] for i in kept]))
    assert torch.equal(replayed, control)
    system = factorise(rows, identity(len(rows[0].key)), recommender.LAMBDA)
    downdated = system.changed(gone=[rows[i] for i in sorted(out[leaves])]).delta(LAYER)
    assert float((downdated - control).norm()) < 1e-9 * float(control.norm())
    assert float((system.edit().delta(LAYER) - control).norm()) > 1e-3 * float(control.norm())


def test_a_region_sends_two_sums(small):
    users, rows, _ = small
    parts = recommender.regional(rows, users.regions)
    own = [row for row, region in zip(rows, users.regions, strict=True) if region == "9"]
    by_hand = row_sums(torch.stack([row.key for row in own]), torch.stack([row.value for row in own]))
    assert list(parts) == sorted(set(users.regions))
    torch.testing.assert_close(parts["9"].S, by_hand.S)
    torch.testing.assert_close(parts["9"].T, by_hand.T)


def test_the_first_ten_are_films_not_yet_rated_and_ranking_counts_hits(small):
    users, rows, _ = small
    keys = torch.stack([row.key for row in rows])
    W = recommender.solved(recommender.regional(rows, users.regions))
    scores = recommender.scores(W, keys, users)
    first = recommender.top(scores)
    assert (first.sum(1) == 10).all() and not (first & (users.seen > 0)).any()
    found = recommender.ranking(scores, users)
    who = users.later.any(1)
    hits = (first & users.later)[who].sum(1)
    np.testing.assert_allclose(found["recall@10"], hits / users.later[who].sum(1))
    order = np.argsort(-scores[who], axis=1, kind="stable")[:, :10]
    gains = np.take_along_axis(users.later[who], order, 1) / np.log2(np.arange(2, 12))
    best = [sum(1 / np.log2(place + 2) for place in range(min(10, n))) for n in users.later[who].sum(1)]
    np.testing.assert_allclose(found["NDCG@10"], gains.sum(1) / best)


def test_invented_accounts_push_one_film(ratings):
    fake = recommender.bandwagon(ratings, film=500, accounts=3)
    assert (fake[:, 500] == 5).all() and set(np.unique(fake)) == {0, 5}
    assert ((fake > 0).sum(1) >= 30).all() and ((fake > 0).sum(1) <= 31).all()
    np.testing.assert_array_equal(fake, recommender.bandwagon(ratings, film=500, accounts=3))


def test_the_edit_takes_a_film_out_for_some_and_changes_no_other_row(small):
    users, rows, _ = small
    keys = torch.stack([row.key for row in rows])
    W = recommender.solved(recommender.regional(rows, users.regions))
    scores = recommender.scores(W, keys, users)
    film = int(recommender.top(scores).sum(0).argmax())
    shown = np.flatnonzero(recommender.top(scores)[:, film])[:4]
    falls = recommender.too_high(scores[shown], film)
    others = np.delete(keys.numpy(), shown, 0)
    moment = torch.from_numpy(others.T @ others / len(others)) + 1e-6 * identity(keys.shape[1])[LAYER]
    dW = recommender.taken_out(film, len(W), keys[shown], falls, moment, lam=1e-3)
    assert not recommender.top(recommender.scores(W + dW, keys, users))[shown, film].any()
    assert not dW[torch.arange(len(W)) != film].any()
    k, system = keys[shown], 1e-3 * moment + keys[shown].T @ keys[shown]
    np.testing.assert_allclose(dW[film], np.linalg.solve(system.numpy(), (-falls @ k).numpy()), atol=1e-8)


def test_the_user_step_makes_keys_depend_on_everybody(small):
    users, rows, _ = small
    W = recommender.solved(recommender.regional(rows, users.regions))
    without = recommender.solved(recommender.regional(rows[:-1], users.regions[:-1]))
    one, other = (recommender.alternated(rows[:3], weights)[0].key for weights in (W, without))
    assert not torch.equal(one, other)
    films, value = W[:, 1:].numpy(), rows[0].value.numpy() - W[:, 0].numpy()
    by_hand = Ridge(1.0, fit_intercept=False).fit(films, value).coef_
    np.testing.assert_allclose(one[1:].numpy(), by_hand / np.linalg.norm(by_hand), atol=1e-9)
