"""Policies against loops over pairs, numpy and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, f1_score, precision_score, recall_score, silhouette_score
from torch.testing import assert_close

from fleke_lib.federation.retrieval.clusters import choose_clusters, cluster
from fleke_lib.federation.retrieval.policies import Cluster, Everyone, Majority, Nobody, Random, Threshold, TopK
from fleke_lib.federation.retrieval.precision import precision_recall
from fleke_lib.federation.retrieval.representations import cosines, represent

POLICIES = [
    Majority(),
    Threshold(0.4),
    TopK(2),
    Cluster(),
    Cluster(3),
    Cluster(3, "spectral"),
    Everyone(),
    Nobody(),
    Random(2),
]


def drawn(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of one pair, by numpy in float64."""
    a, b = a.double().numpy(), b.double().numpy()
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length else 0.0


def groups(*sizes: int, apart: float = 10.0) -> torch.Tensor:
    """Groups of vectors about as many axes."""
    which = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return apart * torch.eye(len(sizes) + 2)[which] + drawn(sum(sizes), len(sizes) + 2, 0)


pairs = st.builds(
    lambda n, m, d, seed: (drawn(n, d, seed), drawn(m, d, seed + 1)),
    *(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(0, 10**6)),
)


@given(pairs)
def test_cosines_pair_by_pair(vectors):
    own, offered = vectors
    expected = torch.tensor([[cosine(a, b) for b in offered] for a in own])
    assert_close(cosines(own, offered), expected, atol=1e-5, rtol=0)


@given(pairs, st.floats(-0.9, 0.9), st.floats(0.05, 1))
def test_majority_counts_its_own_one_by_one(vectors, tau, share):
    own, offered = vectors
    chosen = [sum(cosine(a, b) > tau for a in own) / len(own) >= share for b in offered]
    assert Majority(tau, share).choose(own, offered).tolist() == chosen


@given(pairs, st.floats(-0.9, 0.9))
def test_threshold_asks_the_nearest_of_its_own(vectors, tau):
    own, offered = vectors
    assert Threshold(tau).choose(own, offered).tolist() == [max(cosine(a, b) for a in own) > tau for b in offered]


@given(pairs, st.integers(1, 5))
def test_top_k_takes_the_nearest_of_each(vectors, k):
    own, offered = vectors
    exact = cosines(own, offered).tolist()
    nearest = {j for row in exact for j in sorted(range(len(offered)), key=lambda j: (-row[j], j))[:k]}
    assert TopK(k).choose(own, offered).nonzero().flatten().tolist() == sorted(nearest)


def test_majority_at_its_edges():
    own, offered = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])
    assert Majority().choose(own, offered).tolist() == [True, False, True]  # near to exactly a half; to none; to both
    assert Majority(share=0.6).choose(own, offered).tolist() == [False, False, True]
    assert Majority(tau=1.0).choose(own, offered).tolist() == [False, False, False]  # exceeds, not equals
    tenths = torch.eye(10)
    assert Majority(tau=0.0, share=0.3).choose(tenths, tenths[:3].sum(0, keepdim=True)).tolist() == [True]


@given(pairs, st.floats(0.01, 100), st.integers(0, 99))
def test_only_directions_count_and_order_does_not(vectors, scale, seed):
    own, offered = vectors
    order = torch.randperm(len(offered), generator=torch.Generator().manual_seed(seed))
    for policy in (Majority(0.4003), Threshold(0.4003), TopK(1)):
        chosen = policy.choose(own, offered)
        assert torch.equal(policy.choose(own.flip(0), offered[order]), chosen[order]) or offered.shape[1] == 1
        if isinstance(policy, TopK) and offered.shape[1] == 1:
            continue  # on a line all are equally near, and rounding decides
        assert torch.equal(policy.choose(own * scale, offered), chosen)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("n, m", [(0, 3), (3, 0), (0, 0), (1, 1), (4, 5)])
def test_every_policy_answers_for_every_number(policy, n, m):
    own, offered = drawn(n, 4, 0), drawn(m, 4, 1)
    before = own.clone(), offered.clone()
    chosen = policy.choose(own, offered)
    assert chosen.shape == (m,) and chosen.dtype == torch.bool
    assert torch.equal(chosen, policy.choose(own, offered))
    assert torch.equal(own, before[0]) and torch.equal(offered, before[1])
    if n == 0 and not isinstance(policy, Everyone | Random):
        assert not chosen.any()


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_zero_vectors_are_near_to_nothing(policy):
    own, zeros = drawn(3, 4, 0), torch.zeros(2, 4)
    assert policy.choose(zeros, own).shape == (3,)
    assert policy.choose(zeros, zeros).shape == (2,)
    assert not cosines(own, zeros).any()
    if isinstance(policy, Majority | Threshold):
        assert not policy.choose(own, zeros).any()


@pytest.mark.parametrize("policy", [Majority(), Threshold(0.4), TopK(1), Cluster()], ids=repr)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(policy, value):
    offered = drawn(3, 4, 0)
    offered[1, 2] = value
    with pytest.raises(ValueError, match="not finite: leave it out"):
        policy.choose(drawn(2, 4, 1), offered)


@pytest.mark.parametrize("policy", [Majority(), Threshold(0.4), TopK(1), Cluster()], ids=repr)
def test_vectors_of_two_representations_are_refused(policy):
    with pytest.raises(ValueError, match=r"own vectors are \(2, 3\) and offered ones \(2, 4\)"):
        policy.choose(drawn(2, 3, 0), drawn(2, 4, 0))


def test_everyone_nobody_and_random():
    own, offered = drawn(3, 4, 0), drawn(50, 4, 1)
    assert Everyone().choose(own, offered).all() and not Nobody().choose(own, offered).any()
    assert int(Random(7).choose(own, offered).sum()) == 7 and Random(99).choose(own, offered).all()
    assert not torch.equal(Random(7).choose(own, offered), Random(7, seed=1).choose(own, offered))
    times = sum(Random(10, seed).choose(own, offered).float() for seed in range(1000))
    assert_close(times / 1000, torch.full((50,), 0.2), atol=0.06, rtol=0)  # over four standard errors


@pytest.mark.parametrize("method", ["kmeans", "spectral"])
def test_cluster_adopts_what_is_of_its_own_groups(method):
    vectors = groups(8, 8, 8, 8)
    own = torch.cat([vectors[:3], vectors[8:11]])
    offered = torch.cat([vectors[3:8], vectors[11:]])
    for policy in (Cluster(method=method), Cluster(4, method)):
        assert policy.choose(own, offered).tolist() == [True] * 10 + [False] * 16


def test_cluster_wants_a_fair_share_not_one_stray_vector():
    """Two own vectors of 2 + 20 are less than the fair share of a group where the client has 10 of 32 in all."""
    vectors = groups(10, 22)
    stray, home = vectors[10:12], vectors[:8]
    offered = torch.cat([vectors[8:10], vectors[12:]])
    assert Cluster(2).choose(torch.cat([home, stray]), offered).tolist() == [True] * 2 + [False] * 20
    assert Cluster(1).choose(home, offered).all()  # one cluster holds everybody at exactly the fair share


@given(pairs, st.integers(1, 5))
@settings(max_examples=20)
def test_cluster_by_a_loop_over_clusters(vectors, n):
    own, offered = vectors
    labels = cluster(torch.cat([own, offered]), n).tolist()
    mine, theirs = labels[: len(own)], labels[len(own) :]
    fair = len(own) / len(labels)
    at_home = {c for c in labels if mine.count(c) / labels.count(c) > fair - 1e-12}
    assert at_home  # there is always one
    assert Cluster(n).choose(own, offered).tolist() == [c in at_home for c in theirs]


@pytest.mark.parametrize("method", ["kmeans", "spectral"])
def test_choose_clusters_finds_the_groups_and_shows_the_silhouettes(method):
    vectors = groups(6, 7, 8, 9, 10)
    found = choose_clusters(vectors, range(2, 9), method=method)
    truth = np.arange(5).repeat([6, 7, 8, 9, 10])
    assert found.n == 5 and adjusted_rand_score(truth, found.labels.numpy()) == 1
    assert list(found.silhouettes) == list(range(2, 9)) and max(found.silhouettes.values()) == found.silhouettes[5]
    unit = (vectors / vectors.norm(dim=1, keepdim=True)).numpy()
    assert abs(found.silhouettes[5] - silhouette_score(unit, truth)) < 1e-4
    assert "5 clusters of 40 vectors" in repr(found) and "5: 0." in repr(found)
    assert torch.equal(found.labels, choose_clusters(vectors * 3, range(2, 9), method=method).labels)


@pytest.mark.parametrize("vectors", [torch.zeros(0, 3), torch.ones(1, 3), torch.ones(5, 3), torch.eye(3)[:2]])
def test_too_few_different_vectors_are_one_cluster(vectors):
    found = choose_clusters(vectors)
    assert found.labels.tolist() == [0] * len(vectors) and found.silhouettes == {} and "none" in repr(found)


@pytest.mark.parametrize("method", ["kmeans", "spectral"])
def test_multiples_of_one_vector_fall_together(method):
    vectors = torch.cat([drawn(3, 8, 0) * scale for scale in (1.0, 2.0, 0.1)])
    labels = cluster(vectors, 9, method)
    assert torch.equal(labels, labels[:3].repeat(3)) and len(labels.unique()) == 3


def test_represent_is_the_closed_forms():
    z, h, keys = drawn(5, 4, 0), drawn(5, 4, 1), drawn(5, 9, 2)
    assert torch.equal(represent("raw", z, h), z)
    assert torch.equal(represent("residual", z, h), z - h)
    assert torch.equal(represent("key", z, h, keys), keys)
    assert_close(represent("centred", z, h), z - sum(z) / 5)
    assert_close(represent("centred", z + 7, h), represent("centred", z, h), atol=1e-5, rtol=0)
    assert represent("centred", z[:0], h[:0]).shape == (0, 4)


def test_only_centred_vectors_depend_on_the_others():
    z, h, keys = drawn(5, 4, 0), drawn(5, 4, 1), drawn(5, 9, 2)
    for kind in ("raw", "residual", "key", "centred"):
        alone = torch.equal(represent(kind, z, h, keys)[:3], represent(kind, z[:3], h[:3], keys[:3]))
        assert alone == (kind != "centred")


def test_centring_mends_the_published_rule():
    """A large mean that all share brings every raw cosine over 0.4: the rule adopts everything."""
    z = groups(6, 6, apart=3.0) + 20
    own, offered = slice(0, 3), slice(3, 12)
    raw, centred = represent("raw", z, z), represent("centred", z, z)
    assert Majority().choose(raw[own], raw[offered]).all()
    assert Majority().choose(centred[own], centred[offered]).tolist() == [True] * 3 + [False] * 6


masks = st.integers(1, 12).flatmap(
    lambda m: st.tuples(*[st.lists(st.booleans(), min_size=m, max_size=m).map(torch.tensor)] * 2)
)


@given(masks)
def test_precision_and_recall_as_in_scikit_learn(both):
    adopted, relevant = both
    found, (y_pred, y_true) = precision_recall(adopted, relevant), (adopted.numpy(), relevant.numpy())
    assert_close(found.precision, float(precision_score(y_true, y_pred, zero_division=1)))
    assert_close(found.recall, float(recall_score(y_true, y_pred, zero_division=1)))
    assert_close(found.f1, float(f1_score(y_true, y_pred, zero_division=1)))
    assert (found.adopted, found.relevant, found.offered) == (sum(adopted), sum(relevant), len(adopted))
    assert found.both == sum(a and r for a, r in zip(adopted, relevant, strict=True))
    total = found.precision + found.recall
    assert abs(found.f1 - (2 * found.precision * found.recall / total if total else 0)) < 1e-12


def test_a_retrieval_shows_itself():
    found = precision_recall(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
    assert repr(found) == "Retrieval(adopted 2 of 3, 1 of the 2 relevant: precision 0.50, recall 0.50, f1 0.50)"
    nothing = precision_recall(torch.zeros(3, dtype=torch.bool), torch.tensor([True, False, True]))
    assert (nothing.precision, nothing.recall, nothing.f1) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: Majority(tau=1.5), "tau=1.5 is no cosine"),
        (lambda: Majority(share=0), "share=0 is no share of the own vectors"),
        (lambda: Threshold(float("nan")), "tau=nan is no cosine"),
        (lambda: TopK(0), "k=0 is too few: give 1 or more"),
        (lambda: Random(-1), "n=-1 is no number of vectors"),
        (lambda: Cluster(0), "n=0 is too few"),
        (lambda: Cluster(method="magic"), "no clustering method 'magic': give 'kmeans' or 'spectral'"),
        (lambda: cluster(drawn(5, 3, 0), 2, "magic"), "no clustering method 'magic'"),
        (lambda: cluster(drawn(5, 3, 0), 0), "n=0 is too few"),
        (lambda: represent("colour", drawn(2, 3, 0), drawn(2, 3, 0)), "no representation 'colour': give one of raw"),
        (lambda: represent("raw", drawn(2, 3, 0), drawn(2, 4, 0)), r"z is \(2, 3\) and h \(2, 4\)"),
        (lambda: represent("key", drawn(2, 3, 0), drawn(2, 3, 0)), "2 facts are compared, but none were given"),
        (lambda: represent("key", drawn(2, 3, 0), drawn(2, 3, 0), drawn(1, 9, 0)), "compared, but 1 were given"),
        (lambda: precision_recall(torch.ones(2).bool(), torch.ones(3).bool()), "give two bool tensors"),
        (lambda: precision_recall(torch.ones(2), torch.ones(2)), "give two bool tensors"),
    ],
)
def test_wrong_arguments_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
