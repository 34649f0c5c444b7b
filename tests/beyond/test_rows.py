"""Rows are ridge regression: scikit-learn's, and the edit's own closed form, sums, downdate and packets."""

import pytest
import torch
from sklearn.linear_model import Ridge

from fleke_lib.beyond.rows import KeyValue, identity, row_packet, row_sums, rows_of
from fleke_lib.edit.closed_form import trajectory
from fleke_lib.edit.downdate import factorise
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.ridge.sums import sums

LAM = 0.7
TAGS = {"question": "0" * 64, "answer": "1" * 64}


@pytest.fixture
def table():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(n, 40, generator=generator, dtype=torch.float64).T.contiguous() for n in (6, 3))


def test_the_closed_form_of_rows_is_scikit_learns_ridge(table):
    keys, values = table
    edit = trajectory(rows_of(keys, values), identity(6), LAM)
    expected = Ridge(alpha=LAM, fit_intercept=False).fit(keys.numpy(), values.numpy()).coef_
    torch.testing.assert_close(edit.delta(0), torch.tensor(expected), rtol=1e-10, atol=1e-12)


def test_two_products_give_the_sums_of_rows(table):
    keys, values = table
    fast, slow = row_sums(keys, values), sums(rows_of(keys, values), 0)
    torch.testing.assert_close(fast.S, slow.S)
    torch.testing.assert_close(fast.T, slow.T)
    torch.testing.assert_close(
        fast.solve(identity(6)[0], LAM), trajectory(rows_of(keys, values), identity(6), LAM).delta(0)
    )


def test_a_row_leaves_by_a_downdate(table):
    rows = rows_of(*table)
    without = trajectory(rows[:5] + rows[6:], identity(6), LAM).delta(0)
    downdated = factorise(rows, identity(6), LAM).changed(gone=[rows[5]]).delta(0)
    assert float((without - downdated).abs().max()) < 1e-9


def test_a_row_fits_into_a_packet(table):
    keys, values = table
    row = KeyValue(keys[0].float(), values[0].float(), "f" * 64)
    packet = Packet.read(row_packet(row, "region 1", 3, TAGS).data)
    assert (packet.client, packet.slot, packet.layers) == ("region 1", 3, (0,))
    assert torch.equal(packet.mean(0), row.mean(0)) and torch.equal(packet.shares[0], row.value)
    assert torch.equal(sums([packet], 0).T, sums([row], 0).T)


def test_keys_without_values_are_refused(table):
    keys, values = table
    with pytest.raises(ValueError, match="40 keys and 39 values"):
        row_sums(keys, values[1:])
    with pytest.raises(ValueError, match="40 keys and 39 values"):
        rows_of(keys, values[1:])
