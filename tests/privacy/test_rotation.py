"""A rotation keeps what retrieval needs, and what an attacker needs; each attack where the truth is known."""

import pytest
import torch

from fleke_lib.federation.retrieval.representations import cosines
from fleke_lib.privacy import rotation
from fleke_lib.privacy.attacks.rates import ranks
from fleke_lib.privacy.rotation import Rotation

WIDTH, CANDIDATES = 24, 50
SECRET = b"the clients' secret"


def vectors(n: int = CANDIDATES, seed: int = 0, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator) * (1 + torch.rand(n, 1, generator=generator))


def test_a_keyed_rotation_is_orthogonal_and_depends_on_secret_width_and_purpose():
    one = Rotation.keyed(SECRET, WIDTH)
    assert torch.allclose(one.matrix @ one.matrix.T, torch.eye(WIDTH, dtype=torch.float64), atol=1e-12)
    assert torch.equal(one.matrix, Rotation.keyed(SECRET, WIDTH).matrix)
    assert not torch.allclose(one.matrix, Rotation.keyed(b"another", WIDTH).matrix)
    assert not torch.allclose(one.matrix, Rotation.keyed(SECRET, WIDTH, "layer 4").matrix)
    assert SECRET.decode() not in repr(one)


def test_retrieval_survives_and_no_vector_stays_where_it_was():
    x, turn = vectors(), Rotation.keyed(SECRET, WIDTH)
    assert torch.allclose(cosines(turn(x), turn(x)), cosines(x, x), atol=1e-5)
    assert torch.cosine_similarity(turn(x), x, dim=1).abs().mean() < 0.4


def test_lengths_alone_name_each_vector_without_a_known_pair():
    x, turn = vectors(), Rotation.keyed(SECRET, WIDTH)
    mine = Rotation.drawn(5, WIDTH)
    sent, tried = (rotation.stored(each(x), "h") for each in (turn, mine))
    error = rotation.rounding(rotation.features(tried), rotation.features(x))
    scores = rotation.matched(rotation.features(sent), rotation.features(x), error)
    assert (ranks(scores, torch.arange(CANDIDATES)) == 1).float().mean() > 0.9
    strangers = rotation.matched(rotation.features(sent), rotation.features(vectors(seed=1)), error)
    assert (ranks(strangers, torch.arange(CANDIDATES)) == 1).float().mean() < 0.2


@pytest.mark.parametrize(("pairs", "least"), [(1, 0.9), (2, 1.0)])
def test_at_unit_length_known_pairs_name_each_vector_and_none_names_nothing(pairs, least):
    x, turn = vectors(), Rotation.keyed(SECRET, WIDTH)
    seen, a = turn(x), x[:pairs]
    there = rotation.features(seen, seen[:pairs], lengths=False)
    exact = rotation.features(x, a, lengths=False)
    scores = rotation.matched(there, exact, torch.full((pairs,), 1e-6, dtype=torch.float64))
    assert (ranks(scores, torch.arange(CANDIDATES)) == 1).float().mean() >= least
    nothing = rotation.features(seen, lengths=False)
    blind = rotation.matched(nothing, rotation.features(x, lengths=False), torch.ones(0, dtype=torch.float64))
    assert (ranks(blind, torch.arange(CANDIDATES)) == CANDIDATES).all()


def test_at_unit_length_two_packets_together_name_the_ordered_pair_of_prompts():
    groups = [vectors(seed=seed, width=width) for seed, width in ((0, 24), (1, 40), (2, 40), (3, 40))]
    turned = [Rotation.keyed(SECRET, each.shape[1], str(i))(each) for i, each in enumerate(groups)]
    exact = rotation.pair_features(groups)
    seen = rotation.pair_features(turned)
    one, other = groups[1][3].double(), groups[1][8].double()
    assert float(exact[3, 8, 1]) == pytest.approx(float(torch.cosine_similarity(one, other, dim=0)))
    error = torch.full((4,), 1e-5, dtype=torch.float64)
    flat = exact.flatten(0, 1)
    for i, j in ((0, 1), (7, 31), (49, 2)):
        best = rotation.matched(seen[i, j][None], flat, error)[0].topk(2).indices.tolist()
        assert {(b // CANDIDATES, b % CANDIDATES) for b in best} == {(i, j), (j, i)}


def test_pairs_that_span_everything_undo_the_rotation_and_fewer_undo_their_span():
    x, turn = vectors(), Rotation.keyed(SECRET, WIDTH)
    seen = turn(x)
    assert torch.allclose(rotation.undone(seen, seen[:30], x[:30]), x, atol=1e-4)
    few = x[:5].double()
    inside = x.double() @ few.T @ torch.linalg.inv(few @ few.T) @ few
    assert torch.allclose(rotation.undone(seen, seen[:5], x[:5]).double(), inside, atol=1e-4)


def test_the_rounding_error_is_that_of_each_number_and_never_zero():
    exact = torch.tensor([[1.0, 5.0], [2.0, 6.0]], dtype=torch.float64)
    seen = exact + torch.tensor([[0.3, 0.0], [0.4, 0.0]], dtype=torch.float64)
    assert rotation.rounding(seen, exact).tolist() == pytest.approx([(0.125) ** 0.5, rotation.LEAST])


def test_what_is_stored_is_rounded_as_in_a_packet():
    x = vectors()
    assert torch.equal(rotation.stored(x, "h"), x.half().float())
    assert 0.01 < float((rotation.stored(x, "means") - x).norm() / x.norm()) < 0.2
