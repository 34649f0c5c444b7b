"""Withdrawals: against hashes computed by hand, with packets that are sent again, with processes that are killed."""

import hmac
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from dataclasses import replace
from hashlib import sha256
from itertools import permutations

import pytest
import torch

from fleke_lib.edit import trajectory
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.registry.tombstones import WithdrawalRequest
from fleke_lib.federation.server import Channel, Server
from tests.federation.sample_packets import D_MLP, LAYERS, RULES, TAGS, fact_of, mkv_of, packet_of, path_of, traces

PROCESSES = multiprocessing.get_context("forkserver")  # the child begins with the library loaded, and nothing else
PROCESSES.set_forkserver_preload(["tests.federation.sample_packets"])
CLIENTS = ("ada", "bob", "cleo")
STEPS = 50  # of SQLite's machine between two looks at whether to die


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "registry.sqlite", RULES) as registry:
        yield registry


@pytest.fixture
def packets(registry):
    """Twelve packets of three clients, all put and clustered."""
    packets = [packet_of(seed, CLIENTS[seed % 3], seed // 6) for seed in range(12)]
    for packet in packets:
        registry.put(packet.data)
    registry.set_clusters({packet.id: seed % 2 for seed, packet in enumerate(packets)})
    return packets


def of(client, packets):
    return [packet for packet in packets if packet.client == client]


def ids(packets):
    return [packet.id for packet in packets]


def dump(registry):
    """Everything in the file, as rows."""
    plain = sqlite3.connect(registry.path)
    names = [name for (name,) in plain.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    rows = {name: plain.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    plain.close()
    return rows


def again(packet, client=None, slot=None, compression=None):
    """The same vectors under another pseudonym, slot or compression; `packet_of` made them from a seed."""
    seed = next(seed for seed in range(12) if TAGS.answer(fact_of(seed)) == packet.answer)
    return packet_of(
        seed, client or packet.client, packet.slot if slot is None else slot, compression or Compression(1, "float16")
    )


def test_a_client_is_erased_and_what_it_leaves_is_owed(registry, packets, tmp_path):
    gone = of("bob", packets)
    query = gone[0].z[None]
    assert registry.search(query, 1).ids == [[gone[0].id]]
    request = registry.withdraw(client="bob")
    assert (request.client, request.packets, len(request.marks), request.completed) == ("bob", 4, 4, False)
    assert set(registry.vectors().ids) == set(ids(packets)) - set(ids(gone))
    assert registry.search(query, 1).ids != [[gone[0].id]]
    assert registry.clusters() == {}, "the clustering was computed from the withdrawn packets, too"
    assert not any(traces(tmp_path, packet) for packet in gone) and registry.verify() == []
    assert registry.withdrawn(ids(packets)) == ids(gone) == registry.withdrawn(ids(packets), request)
    with Registry(registry.path) as restarted:
        assert restarted.pending() == [request]
        assert restarted.complete(request) == replace(request, client="", completed=True)
        assert restarted.complete(request).completed and restarted.pending() == []
    assert b"bob" not in registry.path.read_bytes(), "nobody needs the name any more"
    assert registry.withdraw(client="bob").completed


def test_single_packets_are_erased(registry, packets):
    asked = [packets[5].id, packets[2].id, packets[5].id]
    request = registry.withdraw(packets=asked)
    assert (request.client, request.packets) == ("", 2) and len(registry) == 10
    more = registry.withdraw(packets=[packets[5].id, packets[7].id])
    assert more.packets == 1 and more.number != request.number, "one of them was erased before"
    assert registry.withdrawn(ids(packets), more) == [packets[7].id]
    assert registry.pending() == [request, more]
    rest = registry.withdraw(client=packets[2].client)
    assert rest.packets == 2
    assert registry.withdraw(packets=[packets[5].id, packets[2].id]) == request


def test_twice_is_once(registry, packets):
    first = registry.withdraw(client="ada"), registry.withdraw(packets=[packets[1].id])
    before = registry.path.read_bytes()
    assert (registry.withdraw(client="ada"), registry.withdraw(packets=[packets[1].id])) == first
    assert registry.withdraw(packets=ids(of("ada", packets))) == first[0]
    assert registry.path.read_bytes() == before


def test_a_client_whose_packets_went_one_by_one_was_here(registry, packets):
    for packet in of("cleo", packets):
        last = registry.withdraw(packets=[packet.id])
    assert registry.withdraw(client="cleo") == last


def test_what_was_never_here_is_said(registry, packets):
    before = registry.path.read_bytes()
    for match, ask in {
        "client 'eve' never had a packet": lambda: registry.withdraw(client="eve"),
        "packet 'made up' was never here": lambda: registry.withdraw(packets=[packets[0].id, "made up"]),
        "either `client` or `packets`": lambda: registry.withdraw(),
        "give either": lambda: registry.withdraw("ada", [packets[0].id]),
        "a list of one id": lambda: registry.withdraw(packets=[]),
        "list of one id or more": lambda: registry.withdraw(packets=packets[0].id),
        "no request 7": lambda: registry.complete(WithdrawalRequest(7, "", 0, (), False)),
    }.items():
        with pytest.raises(ValueError, match=match):
            ask()
        assert registry.path.read_bytes() == before
    registry.delete_client("bob")
    with pytest.raises(ValueError, match="never had"):
        registry.withdraw(client="bob")


def test_a_withdrawn_packet_does_not_come_back(registry, packets):
    registry.withdraw(client="bob")
    before = registry.path.read_bytes()
    gone = of("bob", packets)[0]
    for sender in (None, "ada", "mallory"):
        with pytest.raises(Refused):
            registry.put(gone.data, sender)
        with pytest.raises(Refused):
            registry.put_anew(gone.data, sender)
    for copy in (
        again(gone, client="mallory"),
        again(gone, client="mallory", slot=9),
        again(gone, client="mallory", compression=Compression(0, "int8")),
        again(gone, client="mallory", compression=Compression(2, "float32")),
    ):
        assert copy.id != gone.id
        with pytest.raises(Refused, match="vectors of packet"):
            registry.put(copy.data, "mallory")
    for own in (again(gone, slot=9), again(gone, compression=Compression(2, "float32"))):
        with pytest.raises(Refused, match="were withdrawn"):
            registry.put(own.data)
    assert registry.path.read_bytes() == before
    registry.put(packet_of(50, "mallory").data, "mallory")


def test_vectors_that_were_changed_a_little_pass(registry, packets):
    """What a hash cannot do, so that nobody claims it."""
    registry.withdraw(client="bob")
    gone = of("bob", packets)[0]
    mkv = mkv_of(1)
    changed = replace(mkv, z=mkv.z * (1 + 2**-9))
    tags = {"question": gone.question, "answer": gone.answer}
    assert registry.put(pack(path_of(1), changed, "mallory", 0, tags).data, "mallory")


@pytest.mark.parametrize("change", [{}, {"slot": 9}, {"compression": Compression(2, "float32")}])
def test_its_owner_may_send_it_again(registry, packets, change):
    first = registry.withdraw(client="bob")
    gone = of("bob", packets)[0]
    back = again(gone, **change)
    assert registry.put(back.data, "bob") == back.id and registry.get([back.id]) == [back.data]
    assert registry.withdrawn(ids(packets)) == ids(of("bob", packets)[1:]), "this one's tombstone is lifted"
    assert registry.pending()[0].packets == 4 and len(registry.pending()[0].marks) == 3
    second = registry.withdraw(client="bob")
    assert second.number > first.number and second.packets == 1 and registry.withdraw(client="bob") == second
    with pytest.raises(Refused):
        registry.put(back.data)


def test_the_same_vectors_of_two_owners(registry):
    """Two clients with one fact get equal vectors. Each one's withdrawal is its own."""
    adas, bobs = packet_of(1, "ada"), packet_of(1, "bob")
    registry.put(adas.data, "ada")
    registry.put(bobs.data, "bob")
    registry.withdraw(client="ada")
    assert registry.put(bobs.data, "bob") == bobs.id and registry.vectors().ids == (bobs.id,)
    registry.withdraw(client="bob")
    assert registry.put(adas.data, "ada") == adas.id
    assert registry.withdrawn([adas.id, bobs.id]) == [bobs.id]
    cleos = packet_of(1, "cleo")
    with pytest.raises(Refused, match="put_anew"):
        registry.put(cleos.data, "cleo")
    assert registry.put_anew(cleos.data, "cleo") == cleos.id
    assert registry.withdrawn([bobs.id]) == [bobs.id]


def test_a_tombstone_is_a_keyed_hash_and_nothing_else(registry, packets, tmp_path):
    gone = of("bob", packets)
    request = registry.withdraw(client="bob")
    registry.complete(request)
    rows = dump(registry)
    ((_, key),) = rows["secrets"]
    assert len(key) == 32

    def mark(kind, what):
        return hmac.new(key, kind + b"\0" + what, sha256).digest()

    expected = {
        (
            mark(b"id", p.id.encode()),
            mark(b"z", p.z.numpy().astype("<f2").tobytes()),
            mark(b"client", b"bob"),
            request.number,
        )
        for p in gone
    }
    assert set(rows["tombstones"]) == expected and rows["requests"] == [(request.number, "", 4, 1)]
    assert rows["tombstones"] == sorted(rows["tombstones"]), "their order is not that of arrival"
    assert request.marks == tuple(row[0].hex() for row in rows["tombstones"])
    with Registry(tmp_path / "other.sqlite", RULES) as other:
        other.put(gone[0].data)
        assert not set(other.withdraw(client="bob").marks) & set(request.marks), "another file has another key"


def test_a_client_sends_its_own_packets_only(registry):
    server, packet = Server(registry), packet_of(1, "ada")
    with pytest.raises(Refused, match="send only your own"):
        Channel(server, "mallory").put(packet.data)
    with pytest.raises(Refused, match="send only your own"):
        server.handle("put", packet.data)
    ada = Channel(server, "ada")
    assert ada.put(packet.data) == packet.id
    registry.withdraw(client="ada")
    with pytest.raises(Refused, match="vectors of packet"):
        Channel(server, "mallory").put(again(packet, client="mallory").data)
    assert ada.find(packet.answer) is None and ada.put(packet.data) == packet.id


def test_two_withdrawals_in_any_order_give_the_same_weights(tmp_path):
    moments = {layer: torch.eye(D_MLP, dtype=torch.float64) for layer in LAYERS}
    found = []
    for n, order in enumerate(permutations(("ada", "bob"))):
        with Registry(tmp_path / f"{n}.sqlite", RULES) as registry:
            packets = [packet_of(seed, CLIENTS[seed % 3]) for seed in range(12)]
            for packet in packets if n else reversed(packets):
                registry.put(packet.data)
            for client in order:
                registry.withdraw(client=client)
            rest = [Packet.read(data) for data in registry.get(registry.vectors().ids)]
            found.append(trajectory(rest, moments))
    for layer in LAYERS:
        assert torch.equal(found[0].delta(layer), found[1].delta(layer))
        never = trajectory(sorted(of("cleo", packets), key=lambda packet: packet.id), moments)
        assert torch.equal(found[0].delta(layer), never.delta(layer))


def test_a_file_from_before_there_were_withdrawals(registry, packets):
    registry.close()
    plain = sqlite3.connect(registry.path)
    plain.executescript("DROP TABLE tombstones; DROP TABLE requests; DROP TABLE secrets;")
    plain.close()
    with Registry(registry.path, RULES) as opened:
        assert opened.pending() == [] and opened.withdraw(client="ada").packets == 4


def withdraw(path, client, acknowledged, after):
    """Withdraw, with a cache so small that pages reach the file at once; die after so many looks, or never."""
    with Registry(path, RULES) as registry:
        registry._db.execute("PRAGMA cache_size = 1")
        looks = iter(range(10**9))

        def look():
            if next(looks) == after:
                os.kill(os.getpid(), signal.SIGKILL)

        registry._db.set_progress_handler(look, STEPS)
        acknowledged.send("begins")
        begun = time.perf_counter()
        registry.withdraw(client=client)
        acknowledged.send("done")
        acknowledged.send((next(looks), time.perf_counter() - begun))
    acknowledged.close()


def run(path, client, after=None, wait=None):
    """What the child said before it ended; with `wait` it is killed that many seconds after it began."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=withdraw, args=(path, client, sender, after))
    process.start()
    sender.close()
    said = [receiver.recv()]
    if wait is not None:
        time.sleep(wait)
        process.kill()
    process.join()
    with pytest.raises((EOFError, OSError)):
        while True:
            said.append(receiver.recv())
    receiver.close()
    process.close()
    return said


@pytest.mark.slow
def test_killed_in_a_withdrawal_the_state_is_the_old_or_the_new_one(tmp_path):
    """At even steps of SQLite's machine, and at any time, which may reach the commit; then a restart finishes."""
    path, draw = tmp_path / "registry.sqlite", random.Random(0)
    packets = [packet_of(seed, CLIENTS[seed % 2], compression=Compression(3, "float32")) for seed in range(40)]
    bobs = ids(of("bob", packets))
    with Registry(path, RULES) as registry:
        for packet in packets:
            registry.put(packet.data)
    whole = path.read_bytes()
    _, _, (looks, seconds) = run(path, "bob")
    steps = [{"after": (looks - 2) * i // 5} for i in range(6)]
    times = [{"wait": draw.uniform(0, 1.5 * seconds)} for _ in range(13)] + [{}]  # the last one lives
    states = []
    for kill in steps + times:
        path.write_bytes(whole)
        said = run(path, "bob", **kill)
        with Registry(path, RULES) as registry:
            left, pending = set(registry.vectors(client="bob").ids), registry.pending()
            states.append("new" if pending else "old")
            if pending:
                assert left == set() and registry.withdrawn(bobs) == bobs and len(pending) == 1
                assert not any(traces(tmp_path, packet) for packet in of("bob", packets))
            else:
                assert left == set(bobs) and registry.withdrawn(bobs) == [] and "done" not in said
            assert set(registry.vectors(client="ada").ids) == set(ids(of("ada", packets)))
            assert registry.verify() == [] and [file.name for file in tmp_path.iterdir()] == [path.name]
            request = registry.withdraw(client="bob")  # who got no answer asks again
            assert registry.pending() == [request] and request.packets == len(bobs)
            registry.complete(request)
            assert registry.pending() == [] and registry.vectors(client="bob").ids == ()
    assert states[:6] == ["old"] * 6 and states[-1] == "new"


def test_killed_between_the_erasure_and_the_derived_work_the_request_stays_owed(tmp_path):
    path = tmp_path / "registry.sqlite"
    packets = [packet_of(seed, CLIENTS[seed % 2]) for seed in range(6)]
    with Registry(path, RULES) as registry:
        for packet in packets:
            registry.put(packet.data)
    assert run(path, "bob")[1] == "done"
    for _ in range(2):
        with Registry(path) as registry:
            (request,) = registry.pending()
            assert request.client == "bob" and registry.withdrawn(ids(packets), request) == ids(of("bob", packets))
    with Registry(path) as registry:
        registry.complete(request)
        assert registry.pending() == []
