"""Whole federations on a tiny model, sealed and plain: equal weights, and what the server sees and keeps."""

import functools
import shutil

import pytest
import torch

from fleke_lib.federation.client import Client, ClientConfig
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.messages import joined
from fleke_lib.federation.packets.packet import Packet, _parse, _write
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.protection import Plain
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.retrieval.policies import Everyone, TopK
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.sealing.channel import OnlyChosen, SealedChannel, WholeSlots
from fleke_lib.federation.sealing.sealed import seal
from fleke_lib.federation.sealing.sealing import Sealing
from fleke_lib.federation.sealing.store import SealedStore, keys_of
from fleke_lib.federation.weights import cumulative
from fleke_lib.privacy.traces import exposed
from fleke_lib.unlearn.edits.traces import traces
from fleke_lib.unlearn.edits.withdrawal import withdraw
from tests.federation.small import LAYERS, facts, scenario

PARTS = partition(facts(), 3, slots=2, overlap=0.3, conflicts=0.1, seed=1)


def ran(policy, protection=None, parts=PARTS, **how):
    lm, provider, _ = scenario()
    return run_fedit(lm, parts, policy, provider=provider, secret=b"the clients' own", protection=protection, **how)


@functools.cache
def ran_plain(config):
    return ran(config)


def equal_weights(one, other):
    assert one.clients == other.clients and one.packets.keys() == other.packets.keys()
    for client in one.clients:
        a, b = (cumulative(run, client, scenario()[2]) for run in (one, other))
        assert all(torch.equal(a.delta(layer), b.delta(layer)) for layer in LAYERS)
    return True


def without_bytes(ledger):
    return [
        (event.kind, event.slot, event.client, event.packet, event.of) for event in ledger if event.kind != "joined"
    ]


@pytest.mark.parametrize("fetch", [WholeSlots, OnlyChosen])
@pytest.mark.parametrize("config", [ClientConfig(TopK(2)), ClientConfig(Everyone(), warm=True)], ids=["top", "warm"])
def test_a_sealed_run_gives_the_weights_of_a_plain_one(config, fetch):
    messages = []
    plain = ran_plain(config)
    sealed = ran(config, Sealing(fetch), tap=lambda *message: messages.append(message))
    assert equal_weights(plain, sealed) and plain.ledger.select("reused") and plain.ledger.select("adopted")
    assert without_bytes(plain.ledger) == without_bytes(sealed.ledger)
    assert sealed.ledger.total("sent") == sum(len(sent) for _, sent, _ in messages)
    assert sealed.ledger.total("received") == sum(len(received) for _, _, received in messages)
    kinds = {"put", "deal", "dealt"} | ({"since"} if fetch is WholeSlots else {"find", "offers", "get"})
    assert {kind for kind, _, _ in messages} == kinds


def dumped(folder, messages):
    """Everything that crossed, as one file."""
    folder.mkdir(exist_ok=True)
    (folder / "messages").write_bytes(b"".join(sent + received for _, sent, received in messages))


@pytest.mark.parametrize("precision", ["int4", "float32"])
def test_nothing_that_the_server_stores_or_sees_has_a_vector_or_text(tmp_path, precision):
    """Pieces of 32 bytes of every vector, as packed, in float32 and in 16 bits, in files and messages."""
    found, asked = {}, [fact for part in PARTS for fact in part.facts]
    for name, protection in (("plain", Plain()), ("sealed", Sealing())):
        messages, folder = [], tmp_path / name
        folder.mkdir()
        config = ClientConfig(Everyone(), compression=Compression(2, precision))
        run = ran(config, protection, path=folder / "store.db", tap=lambda *message, to=messages: to.append(message))
        dumped(folder, messages)
        packets = [*run.packets.values()]
        seen = exposed(packets, asked, [folder])
        search = traces(folder, packets)
        found[name] = (
            {trace.packet for trace in search if "question" not in trace.what and "answer" not in trace.what},
            {id for id, parts in seen.vectors.items() if {"z in float16", "h in float16"} & set(parts)},
            set(seen.vectors),
        )
        assert seen.texts == () and exposed(packets, asked, [folder], [b"...France..."]).texts == ("France",)
        assert {trace.what.split(",")[0] for trace in search} >= {"question", "answer"}, "tags stand in the head"
    assert found["plain"] == (set(run.packets),) * 3, "the same search finds every packet without seals"
    assert found["sealed"] == (set(),) * 3


def test_a_run_that_is_replayed_has_the_same_sealed_packets(tmp_path):
    protection, files = Sealing(), []
    run = ran(Everyone(), protection, path=tmp_path / "one.db")
    for name, again in (("two", protection), ("three", Sealing())):
        equal_weights(run, ran(Everyone(), again, path=tmp_path / f"{name}.db"))
    for name in ("one", "two", "three"):
        with SealedStore(tmp_path / f"{name}.db") as store:
            files.append(store.since(0, "")[1])
    assert files[0] == files[1] != files[2]
    assert run.again().ledger == run.ledger
    with pytest.raises(ValueError, match=r"holds \d+ packets already"):
        ran(Everyone(), protection, path=tmp_path / "one.db")


@pytest.mark.parametrize("config", [ClientConfig(TopK(2)), ClientConfig(Everyone(), warm=True)], ids=["top", "warm"])
def test_a_withdrawal_from_a_sealed_run_gives_the_never_joined_control(config):
    run = ran(config, Sealing())
    after = withdraw(run, client="client 0")
    assert equal_weights(after, ran(config, Sealing(), PARTS[1:])) and equal_weights(
        after, ran(config, None, PARTS[1:])
    )
    gone = run.own("client 1")[0]
    gone = next(packet for packet in run.own("client 1") if packet.client == "client 1")
    assert equal_weights(withdraw(run, packets=[gone.id]), withdraw(ran_plain(config), packets=[gone.id]))


def test_a_withdrawal_forgets_the_keys_that_are_recorded(tmp_path):
    protection = Sealing()
    run = ran(Everyone(), protection)
    words = {word for label in protection.draws._recorded for word in label}
    after = withdraw(run, client="client 0")
    left = after.config.protection.draws._recorded
    gone = {packet.id for packet in run.packets.values() if packet.client == "client 0"}
    assert gone and gone <= words and "client 0" in words
    assert (gone | {"client 0"}).isdisjoint(word for label in left for word in label)
    assert left["epoch", "0"] != protection.draws._recorded["epoch", "0"], "who has left has no key of this group"


def test_what_a_thief_of_a_backup_learns(tmp_path):
    """A copy of the packets' file, and the group's key, before and after a withdrawal."""
    protection = Sealing()
    run = ran(Everyone(), protection, path=tmp_path / "store.db")
    gone = {packet.id for packet in run.packets.values() if packet.client == "client 0"}
    kept = set(run.packets) - gone

    def readable(keys):
        """The packets that a member opens from the copy with some file of keys: one who has opened nothing before."""
        shutil.copy(tmp_path / "backup.db", tmp_path / "thief.db"), shutil.copy(keys, keys_of(tmp_path / "thief.db"))
        identity = tmp_path / "none.db"
        with protection.connect(identity, Rules.of(scenario()[0]), run.clients) as connected:
            member = connected.clients["client 2"]
        identity.unlink(), keys_of(identity).unlink()
        with SealedStore(tmp_path / "thief.db") as store:
            for record in store.since(0, "")[1]:
                member._read(joined(record))
        return {id for id in run.packets if any(member.get([id]))}

    with SealedStore(tmp_path / "store.db") as store:
        store.backup(tmp_path / "backup.db")
        shutil.copy(keys_of(store.path), tmp_path / "old.keys")
        assert readable(keys_of(store.path)) == gone | kept
        store.withdraw(client="client 0")
        assert readable(keys_of(store.path)) == kept
        assert readable(tmp_path / "old.keys") == gone | kept, "the control: keys that were not destroyed"


def test_a_member_that_seals_nonsense_stops_nobody(monkeypatch):
    """Client 0 publishes packets with a share far too great; the others refuse them, and adopt the rest."""
    put = SealedChannel.put

    def spoilt(self, data):
        if self.client != "client 0":
            return put(self, data)
        honest = seal

        def other(packet, identity, epoch, draws):
            shares = {layer: 1e4 * share for layer, share in packet.shares.items()}
            return honest(_packed(packet, shares), identity, epoch, draws)

        monkeypatch.setattr("fleke_lib.federation.sealing.channel.seal", other)
        try:
            return put(self, data)
        finally:
            monkeypatch.setattr("fleke_lib.federation.sealing.channel.seal", honest)

    monkeypatch.setattr(SealedChannel, "put", spoilt)
    kept = {}
    edit = Client.retrieve
    monkeypatch.setattr(Client, "retrieve", lambda self, slot: kept.update({self.name: self}) or edit(self, slot))
    run = ran(ClientConfig(Everyone(), compression=Compression(2, "float32")), Sealing())
    refused = run.ledger.select("refused")
    assert {event.client for event in refused} == {"client 1", "client 2"}
    for client in ("client 1", "client 2"):
        assert {packet.client for packet in run.adopted(client)} <= {"client 1", "client 2"} and run.adopted(client)
        assert all("for a share" in reason for reason in kept[client].channel.refusals.values())
    names = [event.packet for event in refused if event.client == "client 1"]
    assert len(names) == len(set(names)), "it is not asked for again"


def _packed(packet, shares):
    """The packet with other shares."""
    tensors, about = _parse(packet.data)
    return Packet.read(_write(tensors | {"shares": torch.stack([*shares.values()])}, about))
