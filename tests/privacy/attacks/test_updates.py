"""Subjects from dW, S and T of random keys, where the members are known, and against numpy's least squares."""

import numpy as np
import torch

from fleke_lib.privacy.attacks import updates
from fleke_lib.privacy.attacks.public import views
from fleke_lib.privacy.attacks.subject import dictionary
from fleke_lib.privacy.attacks.target import with_template
from fleke_lib.privacy.attacks.updates import Candidates
from fleke_lib.ridge.sums import Sums, sums
from tests.privacy.attacks.cases import LAYERS, SUBJECTS, published

D_MLP, D_MODEL, FACTS, CANDIDATES = 40, 24, 8, 60
LAM = 3.0


def problem(seed: int = 0) -> tuple:
    """C with eigenvalues over three orders, candidates behind two beginnings, members' keys among the first's, r."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    turn, scale = torch.linalg.qr(draw(D_MLP, D_MLP))[0], torch.logspace(-2, 1, D_MLP, dtype=torch.float64)
    C = (turn * scale) @ turn.T
    keys = draw(2, CANDIDATES, D_MLP) * scale.sqrt() @ turn.T  # as ordinary keys, whose second moment is C
    members = torch.randperm(CANDIDATES, generator=generator)[:FACTS]
    k, r = keys[0, members], draw(FACTS, D_MODEL)
    total = Sums(k.T @ k, r.T @ k)
    return C, keys, members, total, total.solve(C, LAM), r


def test_members_are_found_from_an_update_and_from_each_sum_and_strangers_are_not():
    C, keys, members, total, change, _ = problem()
    strangers = problem(9)[1] @ torch.linalg.cholesky(problem(9)[0]).inverse().T @ torch.linalg.cholesky(C).T
    known, unknown = Candidates.of(keys, C), Candidates.of(strangers, C)
    for attack, seen in ((updates.from_update, change), (updates.from_T, total.T), (updates.from_S, total.S)):
        scores = attack(seen, known)
        assert updates.found_among(scores, members) == FACTS
        others = torch.ones(CANDIDATES, dtype=torch.bool).index_fill(0, members, False)
        assert scores[members].min() > 0.95 > 0.8 > scores[others].max()
        assert attack(seen, unknown).max() < 0.8


def test_the_scores_are_the_explained_shares_of_least_squares_with_a_symmetric_root_of_C():
    C, keys, _, total, change, _ = problem(1)
    floor = updates.FLOOR * C.diagonal().mean()
    values, vectors = np.linalg.eigh(C.numpy() + float(floor) * np.eye(D_MLP))
    W, inverse = (vectors * values**0.5) @ vectors.T, (vectors * values**-0.5) @ vectors.T
    for attack, seen, rows in (
        (updates.from_update, change, change.numpy() @ W),
        (updates.from_T, total.T, total.T.numpy() @ inverse),
    ):
        expected = np.zeros(CANDIDATES)
        for behind in keys.numpy():
            x = (behind @ inverse).T
            rest = x - rows.T @ np.linalg.lstsq(rows.T, x, rcond=1e-6)[0]
            expected = np.maximum(expected, 1 - (rest**2).sum(0) / (x**2).sum(0))
        assert np.allclose(attack(seen, Candidates.of(keys, C)).numpy(), expected, atol=1e-6)


def test_the_score_from_S_is_the_ratio_of_two_quadratic_forms():
    C, keys, _, total, _, _ = problem(2)
    C_ = C.numpy() + updates.FLOOR * float(C.diagonal().mean()) * np.eye(D_MLP)
    eps = updates.SMALL * np.trace(total.S.numpy()) / np.trace(C_)
    with_it, without = np.linalg.inv(total.S.numpy() + eps * C_), np.linalg.inv(eps * C_)
    scores = [max(1 - (k @ with_it @ k) / (k @ without @ k) for k in keys[:, i].numpy()) for i in range(CANDIDATES)]
    assert np.allclose(updates.from_S(total.S, Candidates.of(keys, C)).numpy(), scores, atol=1e-9)


def test_the_operator_of_the_sums_maps_each_members_key_nearly_to_its_share():
    C, keys, members, total, _, r = problem(3)
    mapped = keys[0, members] @ updates.operator(total, C).T
    assert torch.cosine_similarity(mapped, r, dim=1).min() > 0.99


def test_facts_of_a_tiny_client_are_found_from_its_T_among_all_facts_keys():
    _, _, paths, _, _ = published()
    keys = torch.stack([path.mean(LAYERS[0]) for path in paths])[None]
    members = torch.arange(0, 33, 5)
    own = sums([paths[i] for i in members.tolist()], LAYERS[0])
    scores = updates.from_T(own.T, Candidates.of(keys, torch.eye(64, dtype=torch.float64)))
    assert updates.found_among(scores, members) == len(members)


def test_a_dictionarys_keys_are_stacked_by_beginning():
    lm, *_ = published()
    known = dictionary(lm, SUBJECTS[:3], LAYERS, ["The capital of ", "The "])
    keys = known.keys
    assert keys.shape == (2, 3, 64)
    assert torch.allclose(keys[0, 2], views(lm, ["The capital of "], [SUBJECTS[2]], LAYERS).key[0], atol=1e-5)


def test_a_target_is_read_by_the_residual_that_the_update_gives_to_the_key():
    lm, facts, paths, mkvs, _ = published()
    total = sums(paths[:1], LAYERS[0])
    k, C = paths[0].mean(LAYERS[0])[None], torch.eye(64, dtype=torch.float64)
    h, r = mkvs[0].h[None], paths[0].shares[LAYERS[0]].double()
    found = updates.target_scores(lm, updates.operator(total, C), k, h, LAYERS[-1], 0.3, [facts[0].prompt])
    moved = (h.double() + 0.3 * h.double().norm() * r / r.norm()).float()
    assert torch.allclose(found, with_template(lm, moved, LAYERS[-1], [facts[0].prompt]), atol=0.05)


def test_an_update_of_rank_n_has_a_row_space_of_n_dimensions():
    C, _, _, _, change, _ = problem(4)
    basis = updates.row_space(change @ torch.linalg.cholesky(C))
    assert basis.shape == (D_MLP, FACTS)
    assert torch.allclose(basis.T @ basis, torch.eye(FACTS, dtype=torch.float64), atol=1e-9)
    assert updates.row_space(change, 2).shape == (D_MLP, 2)


def test_the_size_of_what_an_update_does_to_each_candidate_ranks_members_first_under_noise():
    C, keys, members, total, change, _ = problem(5)
    known = Candidates.of(keys, C)
    sizes = updates.size_in_update(change, known)
    R = torch.linalg.cholesky(updates.floored(C))
    expected = torch.stack([(k @ change.T).norm(dim=1) / (k @ R.inverse().T).norm(dim=1) for k in keys]).amax(0)
    assert torch.allclose(sizes, expected)
    noise = torch.randn(total.T.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    noisy = updates.size_in_T(total.T + noise @ R.T, known)
    strangers = torch.ones(CANDIDATES, dtype=torch.bool).index_fill(0, members, False)
    for found in (sizes, noisy):
        assert (found[members][:, None] > found[strangers]).float().mean() > 0.95  # its AUC
    spread_out = updates.from_T(total.T + noise @ R.T, known)  # all 24 rows count alike
    assert spread_out[members].mean() - spread_out[strangers].mean() < 0.6
