"""Leverage by numpy's inverse; the rules that bound it; what a client may spend."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.registry.budget import Budget
from fleke_lib.federation.registry.leverage import FLOOR, Leverage
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.privacy.attacks.poisoning import erasing
from fleke_lib.ridge.sums import sums
from tests.federation.sample_packets import D_MLP, LAYERS, RULES, packet_of
from tests.tiny import tiny

ORDINARY = {
    layer: torch.randn(400, D_MLP, generator=torch.Generator().manual_seed(layer), dtype=torch.float64)
    * torch.linspace(0.3, 2, D_MLP, dtype=torch.float64)
    for layer in LAYERS
}
C = {layer: keys.T @ keys / len(keys) for layer, keys in ORDINARY.items()}
LEVERAGE = Leverage.of(C, LAYERS)
BOUNDED = replace(RULES, leverage=LEVERAGE, key=8.0, axis=8.0)


def floored(layer: int) -> np.ndarray:
    moment = C[layer].numpy()
    return moment + FLOOR * np.sort(np.diag(moment))[(D_MLP - 1) // 2] * np.eye(D_MLP)  # torch's median: the lower one


def weight_by_hand(packet) -> float:
    """tr(C^-1 S) with numpy's inverse, in units of tr(C^-1 C)."""
    each = []
    for layer in LAYERS:
        own, moment, inverse = sums([packet], layer), C[layer].numpy(), np.linalg.inv(floored(layer))
        system = own.S.numpy() + own.left * moment / np.trace(moment)
        each.append(np.trace(inverse @ system) / np.trace(inverse @ moment))
    return float(np.mean(each))


def test_the_leverage_of_ordinary_keys_is_one_in_the_mean():
    for layer in LAYERS:
        found = LEVERAGE.rows(layer, ORDINARY[layer])
        assert float(found.mean()) == pytest.approx(1, rel=1e-9)
        k, inverse = ORDINARY[layer][7].numpy(), np.linalg.inv(floored(layer))
        assert float(found[7]) == pytest.approx(k @ inverse @ k / np.trace(inverse @ C[layer].numpy()), rel=1e-9)


def test_a_packets_weight_is_what_it_adds_to_the_trace():
    for seed, axes in itertools.product(range(3), (0, 1, 4)):
        packet = packet_of(seed, compression=Compression(axes, "float32"))
        assert LEVERAGE.weight(packet) == pytest.approx(weight_by_hand(packet), rel=1e-6)


def test_an_axis_leaves_a_lone_key_what_the_docstring_says():
    """k^T (lam C + k k^T + d d^T)^-1 k, for d along k, is l / (lam + l + l(d)) in raw units."""
    moment, lam = C[3] + 0, 100.0
    k = ORDINARY[3][0]
    for times in (0.0, 0.5, 2.0):
        system = lam * moment + torch.outer(k, k) * (1 + times**2)
        got, raw = k @ torch.linalg.solve(system, k), k @ torch.linalg.solve(moment, k)
        assert float(got) == pytest.approx(float(raw / (lam + raw + times**2 * raw)), rel=1e-9)


def test_leverage_is_bounded_where_norms_are_not():
    """An axis three times as long as a key, in the direction that ordinary text uses least."""
    honest = packet_of(0)
    _, vectors = np.linalg.eigh(C[5].numpy())
    rare = torch.from_numpy(vectors[:, 0].copy()).float() * honest.means[5].norm()
    liar = erasing(honest, [replace(honest, means=honest.means | {5: rare})], RULES, "ada", 0, times=3)
    assert RULES.check(liar.data).id == liar.id and BOUNDED.check(honest.data).id == honest.id
    with pytest.raises(Refused, match=r"has an axis with \S+ times the leverage of an ordinary key at layer 5, and 8"):
        BOUNDED.check(liar.data)
    with pytest.raises(Refused, match="has a mean key with"):
        replace(BOUNDED, key=0.01).check(honest.data)
    admitted = erasing(honest, [replace(honest, means=honest.means | {5: rare})], BOUNDED, "ada", 0, times=100)
    assert BOUNDED.check(admitted.data).id == admitted.id


def test_the_trace_is_bounded_by_the_trace_of_c():
    packet = packet_of(0, compression=Compression(0, "float32"))
    most = max(packet.left[layer] / float(C[layer].trace()) for layer in LAYERS)
    assert replace(BOUNDED, trace=1.01 * most).check(packet.data).id == packet.id
    with pytest.raises(Refused, match="leaves out a trace of"):
        replace(BOUNDED, trace=0.99 * most).check(packet.data)


def test_rules_with_moments_are_of_the_model_and_of_c():
    lm = tiny("llama")
    moments = {layer: torch.eye(lm.d_mlp, dtype=torch.float64) for layer in (1, 2)}
    rules = Rules.of(lm, (1, 2), moments)
    assert rules.leverage is not None and Rules.of(lm, (1, 2)).leverage is None
    for layer in (1, 2):
        ones = torch.ones(1, lm.d_mlp)
        assert float(rules.leverage.rows(layer, ones)) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"^moments has no C for layer 2: give second_moments"):
        Rules.of(lm, (1, 2), {1: moments[1]})
    with pytest.raises(ValueError, match="trace 0"):
        Rules.of(lm, (1,), {1: 0 * moments[1]})
    with pytest.raises(ValueError, match="not finite"):
        Rules.of(lm, (1,), {1: moments[1] * float("nan")})


@pytest.mark.parametrize(
    "budget, reason",
    [
        (Budget(packets=2), r"with packet \w{12} 'ada' has 3 packets in slot 0, and 2 are its budget: withdraw others"),
        (Budget(packets_in_all=3), "has 4 packets in all, and 3 are its budget"),
        (Budget(weight=1.0), "in slot 0, and 1 is its budget"),
        (Budget(weight_in_all=1.0), "in all, and 1 is its budget"),
    ],
)
def test_a_budget_is_kept(tmp_path, budget, reason):
    packets = [packet_of(seed, "ada", slot) for seed, slot in ((0, 0), (1, 0), (2, 1), (3, 0))]
    rules = replace(BOUNDED, budget=budget)
    with Registry(tmp_path / "r.db", rules) as registry:
        with pytest.raises(Refused, match=reason):
            for packet in packets:
                stored = registry.path.read_bytes()
                registry.put(packet.data, "ada")
        assert registry.path.read_bytes() == stored
        grace = packet_of(7, "grace")
        weight = weight_by_hand(grace)
        if weight < 1:
            assert registry.put(grace.data, "grace") == grace.id  # everybody has a budget of their own


def test_weights_add_up_and_come_back_with_what_is_erased(tmp_path):
    packets = [packet_of(seed, "ada", seed % 2) for seed in range(4)]
    weights = [weight_by_hand(packet) for packet in packets]
    rules = replace(BOUNDED, budget=Budget(weight_in_all=1.0001 * sum(weights[:3])))
    with Registry(tmp_path / "r.db", rules) as registry:
        for packet in packets[:3]:
            registry.put(packet.data)
        registry.put(packets[0].data)  # sent again: nothing is charged twice
        with pytest.raises(Refused, match=f"packets of weight {sum(weights):.4g} in all"):
            registry.put(packets[3].data)
        registry.delete_packet(packets[0].id)
        if sum(weights[1:]) < sum(weights[:3]):
            registry.put(packets[3].data)
        else:
            registry.delete_packet(packets[1].id)
            registry.put(packets[3].data)
    with Registry(tmp_path / "r.db", rules) as registry:  # the file remembers
        (kept,) = registry._db.execute("SELECT total(weight) FROM weights").fetchone()
        stored = [packet for packet in packets if registry.find(packet.answer)]
        assert kept == pytest.approx(sum(map(weight_by_hand, stored)), rel=1e-6)


def test_without_moments_a_file_is_what_it_was(tmp_path):
    with Registry(tmp_path / "r.db", RULES) as registry:
        registry.put(packet_of(0).data)
        assert not registry._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'weights'").fetchall()
