"""Withdrawal compared with independently run federations that were never joined; errors of the approximations."""

import functools
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from fleke_lib.edit import trajectory
from fleke_lib.edit.downdate import factorise
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.partitioning import Part, partition
from fleke_lib.federation.provider import VectorProvider
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.retrieval.policies import Everyone, Threshold, TopK
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.weights import cumulative, held
from fleke_lib.mkv.edit_map import EditMap, teach
from fleke_lib.mkv.forgetting import Forgotten
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.unlearn.edits.approximate import edited_back, influence, missed, newton, subtract
from fleke_lib.unlearn.edits.traces import traces
from fleke_lib.unlearn.edits.withdrawal import downdate, forget, forgotten_check, withdraw
from tests.federation.small import LAYERS, facts, scenario

CONFIGS = {
    "everything": ClientConfig(Everyone()),
    "chosen, centred": ClientConfig(TopK(2)),
    "as published": ClientConfig(Threshold(0.4), "raw", looks_back=False),
    "warm": ClientConfig(Everyone(), warm=True),
}
every_config = pytest.mark.parametrize("config", CONFIGS)


@functools.cache
def optimised(fact):
    """The fact's MKV, optimised by itself: to be had once and for all, since it is the same bits every time."""
    return compute_mkvs(scenario()[0], [fact])[0]


def provider():
    """A provider of its own that never saw another federation: what it computes depends on each fact alone."""
    return VectorProvider(scenario()[0], lambda facts: [optimised(fact) for fact in facts])


def parts(clients=4):
    return partition(facts(), clients, slots=2, overlap=0.25, conflicts=0.15, seed=2, by="dirichlet", alpha=2.0)


@functools.cache
def ran(config, parts):
    return run_fedit(scenario()[0], parts, CONFIGS[config], provider=provider(), secret=b"the clients' own")


def cut(part: Part, gone) -> Part:
    return replace(part, slots=tuple(tuple(fact for fact in slot if fact not in gone) for slot in part.slots))


def same(after, control):
    """Every remaining client's weights, bit for bit, and all that led there.

    From packets of the default compression, with coupling: several layers, and the upper ones are solved for what the
    lower ones deliver.
    """
    assert all(config.compression in (None, Compression()) for config in after.config.clients.values())
    assert after.clients == control.clients and after.packets.keys() == control.packets.keys()
    assert [event for event in after.ledger if event.kind != "withdrawn"] == list(control.ledger)
    for client in control.clients:
        one, other = (cumulative(run, client, scenario()[2]) for run in (after, control))
        assert all(torch.equal(one.delta(i), other.delta(i)) for i in LAYERS)
        apart = cumulative(after, client, scenario()[2], coupling=0)
        assert torch.equal(one.delta(LAYERS[0]), apart.delta(LAYERS[0]))
        assert not torch.equal(one.delta(LAYERS[1]), apart.delta(LAYERS[1])), "the default form is coupled"


@every_config
def test_a_client_that_withdraws_was_never_there(config):
    federation = parts()
    run = ran(config, federation)
    after = withdraw(run, client="client 0")
    same(after, ran(config, federation[1:]))
    assert {event.client for event in after.ledger.select("withdrawn")} == {"client 0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "number"), [("everything", 1), ("everything", 5), ("chosen, centred", 5), ("warm", 1)]
)
def test_facts_that_are_withdrawn_were_never_edited(config, number):
    federation = parts()
    run = ran(config, federation)
    own = [packet for packet in run.own("client 1") if packet.client == "client 1"][:number]
    gone = [run.texts["client 1"][packet.id] for packet in own]
    after = withdraw(run, packets=[packet.id for packet in own])
    same(after, ran(config, tuple(cut(part, gone if part.name == "client 1" else []) for part in federation)))


@pytest.mark.slow
@every_config
def test_half_of_the_clients_in_either_order(config):
    federation = parts()
    run = ran(config, federation)
    one = withdraw(withdraw(run, client="client 0"), client="client 2")
    other = withdraw(withdraw(run, client="client 2"), client="client 0")
    same(one, ran(config, (federation[1], federation[3])))
    same(other, one.again(one.parts))
    assert len(one.ledger.select("withdrawn")) == 2


@pytest.mark.slow
def test_nothing_at_all_is_shared_with_the_control():
    """Optimisations included: two providers that compute everything by themselves."""
    lm = scenario()[0]
    alone, own = (
        {"provider": VectorProvider(lm, lambda facts: compute_mkvs(lm, facts)), "secret": b"the clients' own"}
        for _ in range(2)
    )
    federation = parts()
    after = withdraw(run_fedit(lm, federation, CONFIGS["warm"], **alone), client="client 2")
    same(after, run_fedit(lm, [part for part in federation if part.name != "client 2"], CONFIGS["warm"], **own))


def test_a_reused_packet_is_made_again_by_the_one_who_lived_on_it():
    run = ran("everything", parts())
    reused = run.ledger.select("reused")[0]
    publisher = run.packets[reused.packet].client
    after = withdraw(run, client=publisher)
    fact = run.texts[reused.client][reused.packet]
    (mine,) = [name for name, own in after.texts[reused.client].items() if own == fact]
    assert after.packets[mine].client != publisher
    assert not any(publisher == packet.client for packet in after.packets.values())


def test_a_warm_started_mkv_is_computed_anew():
    run = ran("warm", parts())
    derived = next(event for event in run.ledger.select("optimised") if event.of)
    source = run.packets[derived.of[0]]
    if source.client == derived.client:
        derived = next(
            e for e in run.ledger.select("optimised") if any(run.packets[i].client != e.client for i in e.of)
        )
        source = next(run.packets[i] for i in derived.of if run.packets[i].client != derived.client)
    after = withdraw(run, client=source.client)
    assert not any(source.id in event.of for event in after.ledger)
    assert derived.packet not in after.packets  # other sources, another optimum


@every_config
def test_a_downdate_reaches_the_same_weights(config, monkeypatch):
    """The weights with coupling 0, and from packets that leave nothing out: no other edit has a downdate.

    The usual rules admit eight axes, which is less than a fact's spread has.
    """
    monkeypatch.setattr("fleke_lib.federation.rounds.Rules", SimpleNamespace(of=partial(Rules.of, axes=64)))
    C, whole = scenario()[2], replace(CONFIGS[config], compression=Compression(64))
    run = run_fedit(scenario()[0], parts(), whole, provider=provider(), secret=b"the clients' own")
    after = withdraw(run, client="client 0")
    for client in after.clients:
        system = factorise(held(run, client), C)
        one, other = downdate(system, run, after, client), cumulative(after, client, C, coupling=0)
        assert all((one.delta(i) - other.delta(i)).norm() < 1e-9 * other.delta(i).norm() for i in LAYERS)


def test_packets_of_the_default_compression_have_no_downdate():
    run, C = ran("everything", parts()), scenario()[2]
    after, system = withdraw(run, client="client 0"), factorise(held(run, "client 1"), C)
    with pytest.raises(ValueError, match=r"^\d+ contributions leave out .*: solve again, or publish packets"):
        downdate(system, run, after, "client 1")


def test_a_map_that_a_withdrawn_packet_taught_is_not_replayed():
    run = ran("everything", parts())
    mine, theirs = (run.own(client)[0] for client in ("client 1", "client 2"))
    lm = scenario()[0]
    taught = EditMap.solve(teach(lm, [run.fact(mine.id)], [mine], [mine.id]), 1.0)
    config = replace(run.config, clients={name: ClientConfig(Everyone(), map=taught) for name in run.clients})
    with pytest.raises(ValueError, match="taught by a withdrawn packet"):
        withdraw(replace(run, config=config), packets=[mine.id])
    with pytest.raises(ValueError, match="taught by a withdrawn packet"):
        withdraw(replace(run, config=config), client=mine.client)
    assert theirs.id not in withdraw(replace(run, config=config), packets=[theirs.id]).packets


def test_what_is_not_there_cannot_be_withdrawn():
    run = ran("everything", parts())
    packet = run.own("client 1")[0].id
    after = withdraw(run, client="client 0")
    with pytest.raises(ValueError, match="already"):
        withdraw(after, client="client 0")
    with pytest.raises(ValueError, match="no 'nobody'"):
        withdraw(run, client="nobody")
    with pytest.raises(ValueError, match="not in this run"):
        withdraw(withdraw(run, packets=[packet]), packets=[packet])
    with pytest.raises(ValueError, match="one of the two"):
        withdraw(run)
    with pytest.raises(ValueError, match="one of the two"):
        withdraw(run, client="client 0", packets=[packet])
    with pytest.raises(ValueError, match="one id or more"):
        withdraw(run, packets=[])
    with pytest.raises(ValueError, match="nobody would be left"):
        for client in run.clients:
            run = withdraw(run, client=client)


def test_the_newton_step_arrives_and_the_others_miss():
    """All are for the edit with coupling 0, whose layers are quadratic problems of their own."""
    run, C = ran("everything", partition(facts(), 3, slots=2, seed=1)), scenario()[2]
    after = withdraw(run, client="client 0")
    everything, gone = held(run, "client 1"), [p for p in held(run, "client 1") if p.client == "client 0"]
    before, control = trajectory(everything, C, coupling=0), cumulative(after, "client 1", C, coupling=0)
    system = factorise(everything, C)
    share = {
        "newton": missed(newton(system, gone), control, before),
        "influence": missed(influence(system, gone), control, before),
        "subtract": missed(subtract(before, trajectory(gone, C, coupling=0)), control, before),
        "nothing": missed(before, control, before),
    }
    assert share["newton"] < 1e-9 and share["nothing"] == 1
    assert 1e-3 < share["influence"] < 1 and share["subtract"] > 1e-3
    lm = scenario()[0]
    texts = [run.fact(packet.id) for packet in gone]
    back = edited_back(lm, before, texts, C)
    assert missed(back, control, before) > 1e-3 and not lm.edits


def test_who_withdraws_forgets_the_vectors_on_its_machine_and_a_certificate_says_so(tmp_path, monkeypatch):
    """z of every withdrawn fact lies in the cache before, and in no file afterwards; the others' rows stay."""
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path))
    lm = scenario()[0]
    federation = partition(facts()[:6], 2, slots=1, seed=1)
    run = run_fedit(lm, federation, Everyone(), secret=b"the clients' own")
    gone, kept = ([packet for packet in run.packets.values() if (packet.client == "client 0") == own] for own in (1, 0))
    mkvs = {packet.id: run.config.provider([run.fact(packet.id)])[0].mkv for packet in gone}
    before = traces([tmp_path], gone, kept, mkvs)
    assert {trace.packet for trace in before} == {packet.id for packet in gone}
    assert {trace.what for trace in before} == {"z of its MKV"}
    found = forget(run, client="client 0")
    assert sum(found.rows.values()) == len(gone) and len(traces(tmp_path, gone, kept, mkvs)) == 0
    check = forgotten_check(found)
    assert check.passed and sum(check.figures.values()) == len(gone)
    assert {name.removeprefix("rows deleted from ") for name in check.figures} == {path.name for path in found.rows}
    after, anew = (
        withdraw(run, client="client 0"),
        run_fedit(lm, federation[1:], Everyone(), secret=b"the clients' own"),
    )
    same(after, anew)
    assert len(traces(tmp_path, gone, kept, mkvs)) == 0
    assert not forget(run, client="client 0").rows
    stays = forgotten_check(Forgotten({}, {tmp_path / "memit.safetensors": 2}))
    assert not stays.passed and stays.figures == {"rows that ship in memit.safetensors": 2}
    with pytest.raises(ValueError, match="one of the two"):
        forget(run)
    with pytest.raises(ValueError, match=r"has no `forget`: delete what it keeps of 3 facts"):
        forget(run, client="client 0", provider=lambda wanted: [])
    with pytest.raises(ValueError, match="of no withdrawn packet"):
        traces(tmp_path, gone, kept, {kept[0].id: mkvs[gone[0].id]})
