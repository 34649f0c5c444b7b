"""Noise of a chosen length, and the attacker who averages it away, against an ordinary pass with a hook."""

import pytest
import torch

from fleke_lib.federation.packets import pack
from fleke_lib.privacy.noise import averaged, noisy, target_scores
from tests.privacy.attacks.cases import LAYERS, TAGS, continued_slowly, published


def test_every_vector_moves_by_its_own_length_times_the_scale():
    _, _, paths, mkvs, _ = published()
    path, mkv = noisy(paths[0], mkvs[0], 0.5, seed=1)
    for name in ("keys", "shares", "bystanders", "bases"):
        for layer, before in getattr(paths[0], name).items():
            moved = getattr(path, name)[layer] - before
            assert torch.allclose(moved.norm(dim=-1), 0.5 * before.norm(dim=-1), rtol=1e-3)
    assert float((mkv.h - mkvs[0].h).norm()) == pytest.approx(0.5 * float(mkvs[0].h.norm()), rel=1e-3)
    assert torch.allclose(mkv.z - mkv.h, path.residual, atol=1e-4)
    moved = path.residual - paths[0].residual
    assert float(moved.norm()) == pytest.approx(0.5 * float(paths[0].residual.norm()), rel=1e-3)


def test_noise_has_a_seed_and_none_changes_nothing():
    _, _, paths, mkvs, _ = published()
    one, other = (noisy(paths[0], mkvs[0], 1.0, seed)[1].z for seed in (3, 4))
    assert torch.equal(one, noisy(paths[0], mkvs[0], 1.0, 3)[1].z)
    assert not torch.equal(one, other)
    assert torch.allclose(noisy(paths[0], mkvs[0], 0.0, 3)[1].z, mkvs[0].z, atol=1e-5)
    with pytest.raises(ValueError, match="scale is -1"):
        noisy(paths[0], mkvs[0], -1, 0)


def test_the_adaptive_attacker_adds_the_mean_direction_of_residual_and_shares_to_its_own_h():
    lm, facts, _, mkvs, packets = published()
    found = target_scores(
        lm,
        packets[:2],
        torch.stack([mkv.h for mkv in mkvs[:2]]),
        0.3,
        [f.prompt for f in facts[:2]],
        [f.subject for f in facts[:2]],
    )
    for i in range(2):
        parts = [packets[i].z - packets[i].h, *(packets[i].shares[layer] for layer in LAYERS)]
        r = sum(part / part.norm() for part in parts)
        h = mkvs[i].h
        moved = h + 0.3 * h.norm() * r / r.norm()
        with_it, without = (
            continued_slowly(lm, facts[i].question, facts[i].subject, LAYERS[-1], state) for state in (moved, h)
        )
        assert torch.allclose(found[i], 2 * with_it - without, atol=1e-3)


def test_averaging_brings_the_direction_nearer_than_the_residual_alone():
    _, facts, paths, mkvs, _ = published()
    nearer = []
    for i in range(10):
        path, mkv = noisy(paths[i], mkvs[i], 1.0, seed=i)
        tags = {"question": TAGS.question(facts[i]), "answer": TAGS.answer(facts[i])}
        packet = pack(path, mkv, "ada", 0, tags)
        true = paths[i].residual.double()
        both = (averaged([packet])[0], packet.residual.double())
        mean, alone = (float(torch.cosine_similarity(each, true, dim=0)) for each in both)
        nearer.append(mean > alone)
    assert sum(nearer) >= 8
