"""The edit from masked totals is the edit from rounds in the open; totals are those of Python's integers."""

import numpy as np
import pytest
import torch

from fleke_lib.edit.closed_form import from_rounds, from_sums
from fleke_lib.edit.coupled import Delivery
from fleke_lib.federation.summed import Scales, flat, masked_total, summed_edit, unflat
from fleke_lib.ridge.sums import Sums, sums
from tests.federation.sample_packets import D_MLP, D_MODEL, FINGERPRINT, LAYERS, packet_of, path_of

C = {
    layer: torch.diag(torch.linspace(0.05, 2, D_MLP, dtype=torch.float64)) + torch.full((D_MLP, D_MLP), 0.01).double()
    for layer in LAYERS
}
PARTIES = {f"client {i}": [path_of(10 * i + j, words=2) for j in range(1 + i % 3)] for i in range(8)}
SCALES = Scales.of(C, clients=8, facts=4, share=20.0)
LAM = 3.0


def apart(one, other) -> float:
    return max(
        float((one.delta(layer).double() - other.delta(layer).double()).norm() / other.delta(layer).double().norm())
        for layer in LAYERS
    )


@pytest.mark.parametrize("coupling", [0.0, 1.0, None])
def test_the_edit_is_that_of_open_rounds(coupling):
    found = summed_edit(PARTIES, C, SCALES, "edit 1", LAM, coupling=coupling)
    open_ = from_rounds([*PARTIES.values()], C, LAM, coupling=coupling)
    assert apart(found.edit, open_) < 1e-9
    assert found.edit.fingerprint == FINGERPRINT and set(found.sent) == set(LAYERS)


def test_packets_with_a_trace_sum_up_as_well():
    parties = {name: [packet_of(10 * i + j) for j in range(2)] for i, name in enumerate(PARTIES)}
    found = summed_edit(parties, C, SCALES, "edit 2", LAM)
    assert apart(found.edit, from_rounds([*parties.values()], C, LAM)) < 1e-9


@pytest.mark.parametrize("gone", [(), ("client 2",), ("client 0", "client 5", "client 7")])
def test_totals_are_plain_ones_bit_for_bit_whoever_drops_out(gone):
    """With coupling 0 the sums of a layer do not depend on other layers: they are computed here by themselves."""
    found = summed_edit(PARTIES, C, SCALES, "edit 3", LAM, coupling=0, gone={LAYERS[0]: gone})
    stay = [own for name, own in PARTIES.items() if name not in gone]
    for layer in LAYERS:
        each = [
            SCALES.layers[layer].encode(flat(Delivery.start(own, 0).asked(layer, 1.0).sums())).view(np.int64).tolist()
            for own in stay
        ]
        assert found.totals[layer].view(np.int64).tolist() == [sum(column) for column in zip(*each, strict=True)]
    assert apart(found.edit, from_rounds(stay, C, LAM, coupling=0)) < 1e-9


def test_who_drops_out_above_the_first_layer_is_in_the_layers_below():
    gone = {LAYERS[1]: ("client 1",)}
    found = summed_edit(PARTIES, C, SCALES, "edit 4", LAM, gone=gone)
    whole = summed_edit(PARTIES, C, SCALES, "edit 5", LAM)
    assert np.array_equal(found.totals[LAYERS[0]], whole.totals[LAYERS[0]])
    assert not np.array_equal(found.totals[LAYERS[1]], whole.totals[LAYERS[1]])


def test_withdrawal_by_negative_sums_is_exact():
    """The total afterwards is the never-joined federation's, bit for bit, and so is the edit."""
    layer, (*stay, a, b) = LAYERS[0], [*PARTIES]
    encode = SCALES.layers[layer].encode
    own = {name: encode(flat(sums(party, layer))) for name, party in PARTIES.items()}
    total, _ = masked_total("slot 0", own)
    leaving = {name: -own[name] if name in (a, b) else np.zeros_like(own[name]) for name in PARTIES}
    negative, _ = masked_total("slot 1", leaving)
    never, _ = masked_total("never", {name: own[name] for name in stay})
    assert np.array_equal(total + negative, never)
    edits = [
        from_sums({layer: unflat(SCALES.layers[layer].decode(each), D_MLP, D_MODEL)}, C, FINGERPRINT, LAM)
        for each in (total + negative, never)
    ]
    assert torch.equal(edits[0].delta(layer), edits[1].delta(layer))


def test_sums_become_vectors_and_back():
    generator = torch.Generator().manual_seed(0)
    S = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    given = Sums(S + S.T, torch.randn(3, 5, generator=generator, dtype=torch.float64), 0.7)
    back = unflat(flat(given), 5, 3)
    assert torch.equal(back.S, given.S) and torch.equal(back.T, given.T) and back.left == 0.7
    assert len(flat(given)) == 5 * 6 // 2 + 3 * 5 + 1


def test_bytes_of_a_client():
    found = summed_edit(PARTIES, C, SCALES, "edit 6", LAM)
    numbers = D_MLP * (D_MLP + 1) // 2 + D_MLP * D_MODEL + 1
    shares = 7 * (12 + 2 * 66 + 16) + 8 * 66  # sealed for seven, one of each of eight revealed
    assert set(found.sent.values()) == {8 * (numbers + 1) + 8 * (2 + 1) + 2 * (64 + shares)}


def test_bad_input():
    small = Scales.of(C, clients=8, facts=1, share=1e-3)
    with pytest.raises(ValueError, match="overflows the fixed point"):
        summed_edit({name: own * 40 for name, own in PARTIES.items()}, C, small, "edit 7", LAM)
    with pytest.raises(ValueError, match="1 clients have no contributions"):
        summed_edit(PARTIES | {"client 0": []}, C, SCALES, "edit 8", LAM)
    with pytest.raises(ValueError, match="4 of 8 vectors came"):
        summed_edit(PARTIES, C, SCALES, "edit 9", LAM, gone={LAYERS[0]: [*PARTIES][:4]})
    with pytest.raises(ValueError, match="do not fit into 64 bits"):
        Scales.of(C, clients=8, facts=1, share=1e10)
