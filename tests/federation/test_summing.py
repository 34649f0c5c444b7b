"""Whole federations whose clients send totals only: the edit of rounds in the open, its record, and withdrawal."""

import functools
from dataclasses import replace

import pytest
import torch

from fleke_lib.edit.closed_form import from_rounds, from_sums
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.protection import Plain
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.retrieval.policies import Everyone, Nobody
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.summed import Scales, flat, masked_total, unflat
from fleke_lib.federation.summing import Summing, total
from fleke_lib.ridge.sums import sums
from fleke_lib.unlearn.edits.replay import replay_check
from fleke_lib.unlearn.edits.withdrawal import withdraw
from tests.federation.small import LAYERS, facts, scenario

PARTS = partition(facts(), 5, slots=2, seed=1)
LAM = 100.0


@functools.cache
def scales():
    lm, _, moments = scenario()
    rules = Rules.of(lm)
    return Scales.of(moments, clients=len(PARTS), facts=8, share=rules.clamp * rules.state)


def ran(parts=PARTS, protection=None, **how):
    lm, provider, _ = scenario()
    given = {"provider": provider, "secret": b"the clients' own", "protection": protection or Summing(scales())}
    return run_fedit(lm, parts, Everyone(), **given | how)


def equal(one, other):
    return all(torch.equal(one.delta(layer), other.delta(layer)) for layer in LAYERS)


def test_nothing_crosses_before_the_total_and_the_edit_is_that_of_open_rounds(tmp_path):
    lm, _, moments = scenario()
    messages, file = [], tmp_path / "registry.db"
    run = ran(tap=lambda *message: messages.append(message), path=file)
    assert not messages and not file.exists() and run.ledger.total("sent") == run.ledger.total("received") == 0
    assert not run.ledger.select("adopted", "reused")
    found = total(run, moments)
    open_ = from_rounds([run.own(client) for client in run.clients], moments, LAM)
    for layer in LAYERS:
        assert float((found.edit.delta(layer) - open_.delta(layer)).norm() / open_.delta(layer).norm()) < 1e-6
    assert found.edit.fingerprint == lm.fingerprint(LAYERS)
    early = from_rounds([run.own(client, 0) for client in run.clients], moments, LAM)
    first = total(run, moments, until=0).edit
    assert float((first.delta(1) - early.delta(1)).norm() / early.delta(1).norm()) < 1e-6


def test_packets_are_those_of_a_plain_run_without_sharing():
    lm, provider, _ = scenario()
    given = {"provider": provider, "secret": b"the clients' own"}
    plain = run_fedit(lm, PARTS, ClientConfig(Nobody(), reuse=False), **given)
    assert ran().packets.keys() == plain.packets.keys()


def test_the_ledger_records_who_sent_how_much_and_a_replay_still_holds():
    run, moments = ran(), scenario()[2]
    found = total(run, moments, gone={LAYERS[1]: ["client 3"]})
    assert [event.client for event in found.events] == [name for name in run.clients if name != "client 3"]
    assert all(event.kind == "summed" and event.slot == 1 and event.sent > event.received for event in found.events)
    d_mlp, d_model = len(moments[LAYERS[0]]), scenario()[0].d_model
    numbers = len(LAYERS) * (d_mlp * (d_mlp + 1) // 2 + d_model * d_mlp + 1)
    assert {event.received for event in found.events} == {8 * numbers}
    recorded = replace(run, ledger=run.ledger.plus(found.events))
    assert recorded.ledger.total("sent", "summed") > 0 and replay_check(recorded, []).passed


@pytest.mark.parametrize("coupling", [None, 0.0])
def test_a_withdrawal_gives_the_never_joined_control_bit_for_bit(coupling):
    moments, run = scenario()[2], ran()
    for after, never in (
        (withdraw(run, client="client 0"), ran(PARTS[1:])),
        (withdraw(withdraw(run, client="client 4"), client="client 0"), ran(PARTS[1:-1])),
    ):
        one, other = (total(each, moments, coupling=coupling).edit for each in (after, never))
        assert equal(one, other) and not equal(one, total(run, moments, coupling=coupling).edit)


def test_negative_sums_in_a_later_total_are_the_same_withdrawal():
    """With coupling 0: nobody computes again but for the two who leave."""
    moments, run = scenario()[2], ran()
    after = total(withdraw(withdraw(run, client="client 4"), client="client 0"), moments, coupling=0).edit
    here = {}
    for layer in LAYERS:
        point = scales().layers[layer]
        own = {name: point.encode(flat(sums(run.own(name), layer))) for name in run.clients}
        before, _ = masked_total(f"before {layer}", own)
        leaving = {n: -v if n in ("client 0", "client 4") else 0 * v for n, v in own.items()}
        later, _ = masked_total(f"later {layer}", leaving)
        here[layer] = unflat(point.decode(before + later), len(moments[layer]), scenario()[0].d_model)
    assert equal(from_sums(here, moments, after.fingerprint, LAM), after)


def test_bad_input():
    moments = scenario()[2]
    with pytest.raises(ValueError, match=r"protection is Plain\(\): totals are for runs with Summing"):
        total(ran(protection=Plain()), moments)
    with pytest.raises(Refused):
        ran(rules=replace(Rules.of(scenario()[0]), state=1e-9))
    tight = Scales.of(moments, clients=len(PARTS), facts=1, share=1e-3)
    with pytest.raises(ValueError, match="overflows the fixed point"):
        total(ran(protection=Summing(tight)), moments)
    with pytest.raises(ValueError, match="2 of 5 vectors came"):
        total(ran(), moments, gone={LAYERS[0]: ["client 0", "client 1", "client 2"]})
    with (
        Summing(scales()).connect(None, Rules.of(scenario()[0]), ["a"]) as connected,
        pytest.raises(ValueError, match="1 packets were asked for, but under summing"),
    ):
        connected.clients["a"].get(["x"])
