"""Updates in LoRA form: the nearest matrix of a rank, the merges, and what averaging factors does."""

import pytest
import torch

from fleke_lib.edit.edit import Edit
from fleke_lib.federation import baselines
from fleke_lib.federation.lora import adapter, average_factors
from fleke_lib.ridge.solve import LowRank

D_MODEL, D_MLP = 6, 9


def edits(*ranks: int, fingerprint: str = "base") -> list[Edit]:
    generator = torch.Generator().manual_seed(0)

    def factors(rank):
        shapes = ((D_MODEL, rank), (rank, D_MLP))
        return LowRank(*(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes))

    return [Edit({1: factors(rank), 3: factors(rank)}, fingerprint, "trajectory") for rank in ranks]


@pytest.mark.parametrize("dense", [False, True])
def test_an_adapter_is_the_nearest_matrix_of_its_rank_in_balanced_factors(dense):
    (edit,) = edits(5)
    if dense:
        edit = Edit({layer: LowRank.of(change.dense()) for layer, change in edit.changes.items()}, "base")
    sent = adapter(edit, 2)
    for layer in (1, 3):
        u, s, v = torch.linalg.svd(edit.delta(layer), full_matrices=False)
        torch.testing.assert_close(sent.delta(layer), u[:, :2] * s[:2] @ v[:2])
        b, a = sent.changes[layer].left, sent.changes[layer].right
        assert b.shape == (D_MODEL, 2) and a.shape == (2, D_MLP)
        torch.testing.assert_close(b.T @ b, s[:2].diag(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(a @ a.T, s[:2].diag(), rtol=1e-9, atol=1e-9)


def test_factors_do_not_depend_on_how_the_edit_was_factored():
    """Two decompositions of one matrix, and one whose signs were turned."""
    (edit,) = edits(3)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    turned = {n: LowRank(change.left @ turn, turn.T @ change.right) for n, change in edit.changes.items()}
    one, other = adapter(edit, 3), adapter(Edit(turned, "base"), 3)
    for layer in (1, 3):
        torch.testing.assert_close(one.changes[layer].left, other.changes[layer].left)
        torch.testing.assert_close(one.changes[layer].right, other.changes[layer].right)


def test_a_rank_above_the_edits_own_loses_nothing():
    (edit,) = edits(2)
    sent = adapter(edit, 4)
    assert {change.rank for change in sent.changes.values()} == {4}
    torch.testing.assert_close(sent.delta(1), edit.delta(1))
    assert not sent.changes[1].left[:, 2:].any() and not sent.changes[1].right[2:].any()
    with pytest.raises(ValueError, match=r"^rank=0 is no rank: give 1 or more\.$"):
        adapter(edit, 0)


def test_averaging_factors_is_not_averaging_updates():
    sent = [adapter(edit, 3) for edit in edits(4, 4, 2)]
    found = average_factors(sent, [1, 1, 2], step=3.0)
    b = sum(w * edit.changes[1].left for w, edit in zip((0.25, 0.25, 0.5), sent, strict=True))
    a = sum(w * edit.changes[1].right for w, edit in zip((0.25, 0.25, 0.5), sent, strict=True))
    torch.testing.assert_close(found.delta(1), 3 * b @ a)
    assert (found.delta(1) - baselines.fedavg(sent, [1, 1, 2], 3.0).delta(1)).norm() > 0.1 * found.delta(1).norm()
    assert found.changes[1].rank == 3 and found.layers == (1, 3)


def test_one_client_keeps_its_update_and_equal_clients_theirs():
    sent = adapter(edits(3)[0], 2)
    for clients in (1, 4):
        torch.testing.assert_close(average_factors([sent] * clients).delta(3), sent.delta(3))


def test_the_order_of_the_clients_changes_no_bit():
    sent = [adapter(edit, 3) for edit in edits(3, 3, 3, 3)]
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        one = average_factors([sent[i] for i in order], [i + 1 for i in order], 2.0)
        other = average_factors(sent, [1, 2, 3, 4], 2.0)
        assert all(torch.equal(one.delta(layer), other.delta(layer)) for layer in (1, 3))


def test_bad_input_is_said():
    sent = [adapter(edit, 2) for edit in edits(3, 3)]
    with pytest.raises(ValueError, match="2 edits"):
        average_factors(sent, [1])
    with pytest.raises(ValueError, match=r"^these adapters have the ranks \[2, 3\]: give adapters of one rank\.$"):
        average_factors([sent[0], adapter(edits(3)[0], 3)])
    with pytest.raises(ValueError, match="computed on several models"):
        average_factors([sent[0], adapter(edits(3, fingerprint="other")[0], 2)])
