"""What a withdrawal changes names who left: random keys, where it is known, and a tiny client's sums."""

import torch

from fleke_lib.privacy.attacks import updates, withdrawn
from fleke_lib.privacy.attacks.rates import ranks
from fleke_lib.privacy.attacks.updates import Candidates
from fleke_lib.ridge.sums import Sums, sums
from tests.privacy.attacks.cases import LAYERS, published

D_MLP, D_MODEL, FACTS, CANDIDATES, LAM = 40, 24, 10, 80, 30.0


def solved(k: torch.Tensor, r: torch.Tensor, C: torch.Tensor) -> tuple[Sums, torch.Tensor]:
    total = Sums(k.T @ k, r.T @ k)
    return total, total.solve(C, LAM)


def test_each_of_ten_facts_that_leaves_is_named_first_from_updates_and_from_totals():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-1, 1, D_MLP, dtype=torch.float64)
    keys = torch.randn(1, CANDIDATES, D_MLP, generator=generator, dtype=torch.float64) * sizes.sqrt()
    r = torch.randn(FACTS, D_MODEL, generator=generator, dtype=torch.float64)
    C = torch.diag(sizes)
    known = Candidates.of(keys, C)
    before, change = solved(keys[0, :FACTS], r, C)
    updates_seen, totals_seen = [], []
    for gone in range(FACTS):
        kept = [i for i in range(FACTS) if i != gone]
        after, changed = solved(keys[0, kept], r[kept], C)
        updates_seen.append(withdrawn.from_updates(change, changed, known))
        totals_seen.append(withdrawn.from_totals(before, after, known))
    truth = torch.arange(FACTS)
    assert ranks(torch.stack(updates_seen), truth).tolist() == [1] * FACTS
    assert ranks(torch.stack(totals_seen), truth).tolist() == [1] * FACTS
    assert torch.stack(totals_seen)[truth, truth].min() > 1 - 1e-9
    assert 1 not in ranks(torch.stack(totals_seen), truth + FACTS).tolist()  # somebody who was never there


def test_facts_that_leave_together_are_found_together():
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(1, CANDIDATES, D_MLP, generator=generator, dtype=torch.float64)
    r = torch.randn(FACTS, D_MODEL, generator=generator, dtype=torch.float64)
    C = torch.eye(D_MLP, dtype=torch.float64)
    known = Candidates.of(keys, C)
    (before, change), (after, changed) = solved(keys[0, :FACTS], r, C), solved(keys[0, 3:FACTS], r[3:], C)
    for scores in (
        withdrawn.from_updates(change, changed, known, facts=3),
        withdrawn.from_totals(before, after, known, facts=3),
    ):
        assert updates.found_among(scores, torch.arange(3)) == 3


def test_a_tiny_clients_withdrawn_fact_is_named_among_all_facts_keys():
    _, _, paths, _, _ = published()
    keys = torch.stack([path.mean(LAYERS[0]) for path in paths])[None]
    known = Candidates.of(keys, torch.eye(64, dtype=torch.float64))
    before, after = sums(paths[:9], LAYERS[0]), sums(paths[:4] + paths[5:9], LAYERS[0])
    assert int(withdrawn.from_totals(before, after, known).argmax()) == 4


def test_the_packets_that_are_gone_from_a_registry_are_returned():
    *_, packets = published()
    assert withdrawn.from_registries(packets, packets[:3] + packets[5:]) == packets[3:5]
    assert withdrawn.from_registries(packets, packets) == []
