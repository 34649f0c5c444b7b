"""The registry against numpy, against plain SQLite, and against processes that are killed in the middle of a change."""

import multiprocessing
import random
import sqlite3
import time
from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.registry.index import Index
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.mkv.mkv import Mkv
from tests.federation.sample_packets import D_MODEL, RULES, TAGS, child, fact_of, packet_before, packet_of, traces

PROCESSES = multiprocessing.get_context("forkserver")  # the child begins with the library loaded, and nothing else
PROCESSES.set_forkserver_preload(["tests.federation.sample_packets"])


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "registry.sqlite", RULES) as registry:
        yield registry


@pytest.fixture
def packets(registry):
    """Twelve packets of three clients in two slots, all put."""
    packets = [packet_of(seed, client=("ada", "bob", "cleo")[seed % 3], slot=seed // 6) for seed in range(12)]
    for packet in packets:
        registry.put(packet.data)
    return packets


def test_what_was_put_is_found_and_got_in_the_order_asked(registry, packets):
    ids = [packet.id for packet in reversed(packets)]
    assert registry.get(ids) == [packet.data for packet in reversed(packets)]
    assert registry.find(TAGS.answer(fact_of(4))) == [packets[4].id]
    assert registry.find(TAGS.question(fact_of(4)), "question") == [packets[4].id]
    assert registry.find(TAGS.target(fact_of(4)), "target") == [packets[4].id]
    assert registry.find(TAGS.answer(fact_of(4)), "question") == []
    assert registry.find("", "target") == []
    assert registry.verify() == []


def test_earlier_slots_are_found_first(registry):
    late, early = packet_of(1, "ada", slot=7), packet_of(1, "bob", slot=2)
    registry.put(late.data)
    registry.put(early.data)
    assert registry.find(late.answer) == [early.id, late.id]


def test_putting_twice_keeps_one(registry, packets):
    assert registry.put(packets[0].data) == packets[0].id
    assert len(registry) == 12


def test_it_is_all_there_when_opened_again(registry, packets):
    with Registry(registry.path) as again:
        assert again.get([packets[3].id]) == [packets[3].data]
        assert len(again) == 12


def cosines(queries, rows):
    queries, rows = queries.double().numpy(), rows.double().numpy()
    return queries @ rows.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(rows, axis=1)


CONDITIONS = [
    {},
    {"slot": 1},
    {"until": 0},
    {"client": "bob"},
    {"not_client": "bob"},
    {"cluster": 2},
    {"slot": 0, "not_client": "ada", "cluster": 1},
    {"client": "nobody"},
]


def fits(packet, clusters, slot=None, until=None, client=None, not_client=None, cluster=None):
    return (
        slot in (None, packet.slot)
        and (until is None or packet.slot <= until)
        and client in (None, packet.client)
        and packet.client != not_client
        and cluster in (None, clusters.get(packet.id))
    )


@pytest.mark.parametrize("representation", ["raw", "residual"])
@pytest.mark.parametrize("where", CONDITIONS)
def test_search_is_brute_force(registry, packets, where, representation):
    clusters = {packet.id: n % 3 for n, packet in enumerate(packets) if n}
    registry.set_clusters(clusters)
    chosen = [packet for packet in packets if fits(packet, clusters, **where)]
    queries = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(0))
    found = registry.search(queries, 3, representation, **where)
    assert found.cosines.shape == (5, min(3, len(chosen)))
    if not chosen:
        assert found.ids == [[]] * 5
        return
    rows = torch.stack([packet.z if representation == "raw" else packet.residual for packet in chosen])
    expected = cosines(queries, rows)
    order = np.argsort(-expected, axis=1)[:, :3]
    assert found.ids == [[chosen[i].id for i in line] for line in order]
    assert_close(found.cosines.double(), torch.from_numpy(np.take_along_axis(expected, order, 1)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("where", CONDITIONS)
def test_vectors_are_those_of_the_packets_by_slot_and_id(registry, packets, where):
    registry.set_clusters({})
    where = {name: value for name, value in where.items() if name != "cluster"}
    chosen = sorted((p for p in packets if fits(p, {}, **where)), key=lambda p: (p.slot, p.id))
    vectors = registry.vectors(**where)
    assert vectors.ids == tuple(packet.id for packet in chosen)
    assert vectors.clients == tuple(packet.client for packet in chosen)
    assert vectors.slots == tuple(packet.slot for packet in chosen)
    assert len(vectors.z) == len(vectors.h) == len(chosen)
    for packet, z, h in zip(chosen, vectors.z, vectors.h, strict=True):
        assert torch.equal(z, packet.z)
        assert torch.equal(h, packet.h)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 9), st.integers(0, 2**31), st.booleans())
def test_blocks_do_not_change_what_is_found(rows, queries, k, seed, some):
    """The block is a few rows here, so that the best come from many blocks."""
    generator = torch.Generator().manual_seed(seed)
    matrix, asked = torch.randn(rows, 6, generator=generator), torch.randn(queries, 6, generator=generator)
    chosen = torch.randperm(rows, generator=generator)[: rows // 2].sort().values if some else torch.arange(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fleke_lib.federation.registry.index.TOGETHER", 4)
        found = Index([str(i) for i in range(rows)], matrix.clone()).search(asked, k, chosen if some else None)
    expected = cosines(asked, matrix[chosen])
    order = np.argsort(-expected, axis=1)[:, :k]
    assert found.ids == [[str(chosen[i].item()) for i in line] for line in order]


def test_zeros_are_near_to_nothing():
    index = Index(["zero", "one"], torch.tensor([[0.0, 0.0], [1e-20, 0.0]]))
    found = index.search(torch.tensor([[1e30, 0.0], [0.0, 0.0]]), 2)
    assert_close(found.cosines, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_a_search_after_a_change_sees_it(registry, packets):
    query = packets[0].z[None]
    assert registry.search(query, 1).ids == [[packets[0].id]]
    registry.delete_packet(packets[0].id)
    assert registry.search(query, 1).ids != [[packets[0].id]]
    with Registry(registry.path, RULES) as other:  # as another process would
        other.put(packets[0].data)
    assert registry.search(query, 1).ids == [[packets[0].id]]


def test_clusters_are_replaced_whole_and_leave_with_their_packets(registry, packets):
    registry.set_clusters({packet.id: 1 for packet in packets})
    registry.set_clusters({packets[0].id: 4, packets[1].id: 5})
    with pytest.raises(ValueError, match="ask `find`"):
        registry.set_clusters({packets[2].id: 0, "unknown": 1})
    assert registry.clusters() == {packets[0].id: 4, packets[1].id: 5}
    registry.delete_packet(packets[0].id)
    assert registry.clusters() == {packets[1].id: 5}


def test_deleting_erases_every_byte(registry, packets, tmp_path):
    registry.set_clusters({packet.id: 1 for packet in packets})
    gone = [packet for packet in packets if packet.client == "bob"]
    assert all(traces(tmp_path, packet) for packet in packets)
    assert registry.delete_client("bob") == len(gone) == 4
    assert registry.delete_client("bob") == registry.delete_packet(gone[0].id) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["registry.sqlite"]
    assert not any(traces(tmp_path, packet) for packet in gone)
    assert len(registry) == 8 and registry.verify() == []
    assert all(traces(tmp_path, packet) for packet in packets if packet not in gone)


@pytest.mark.parametrize("setting", ["secure_delete = OFF", "journal_mode = WAL", "journal_mode = PERSIST"])
def test_without_these_settings_they_would_stay(registry, packets, tmp_path, setting):
    """The control: the same search for bytes finds them where SQLite is used otherwise."""
    registry.close()
    plain = sqlite3.connect(registry.path)
    plain.execute(f"PRAGMA {setting}")
    with plain:
        plain.execute("DELETE FROM packets WHERE client = 'bob'")
    assert all(traces(tmp_path, packet) for packet in packets if packet.client == "bob")
    plain.close()


def interrupted_upload(folder, auto_vacuum):
    """Delete, then put with a cache so small that pages reach the file, and give up: what is left of that upload?"""
    big = packet_of(99, compression=Compression(60, "float32"))
    with Registry(folder / "registry.sqlite", RULES) as registry:
        registry._db.execute(f"PRAGMA auto_vacuum = {auto_vacuum}")
        registry._db.execute("VACUUM")
        for seed in range(40):
            registry.put(packet_of(seed, client=f"client {seed % 2}").data)
        registry.delete_client("client 0")
        registry._db.execute("PRAGMA cache_size = 1")
        registry._db.execute("BEGIN IMMEDIATE")
        registry._db.execute(
            "INSERT INTO packets VALUES (NULL, ?, 'x', 0, 'x', 'x', 'x', 'x', 'x', 'x', ?)", ("x", big.data)
        )
        assert traces(folder, big)  # on the disk, and not acknowledged
        registry._db.execute("ROLLBACK")
    return traces(folder, big)


def test_an_interrupted_upload_leaves_nothing(tmp_path):
    assert interrupted_upload(tmp_path, "FULL") == []


def test_without_auto_vacuum_it_would(tmp_path):
    assert interrupted_upload(tmp_path, "NONE") == ["registry.sqlite"]


@pytest.mark.parametrize(
    "tampering, what",
    [
        ("z = zeroblob(128)", "z not as in the packet"),
        ("client = 'mallory', slot = 5", "client, slot not as in the packet"),
        ("data = substr(data, 1, 100)", "the bytes do not hash to the id"),
        ("data = 'text'", "the bytes do not hash to the id"),
        ("id = 'made up'", "the bytes do not hash to the id"),
    ],
)
def test_verify_finds_the_row_that_was_tampered_with(registry, packets, tampering, what):
    plain = sqlite3.connect(registry.path)
    with plain:
        plain.execute(f"UPDATE packets SET {tampering} WHERE id = ?", (packets[5].id,))
    plain.close()
    (fault,) = registry.verify()
    assert fault.what == what
    assert fault.id == ("made up" if "made up" in tampering else packets[5].id)


def test_a_forged_row_that_is_no_packet_is_found(registry, packets):
    plain = sqlite3.connect(registry.path)
    sha256_of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with plain:
        plain.execute("UPDATE packets SET id = ?, data = x'' WHERE id = ?", (sha256_of_nothing, packets[5].id))
    plain.close()
    assert [fault.what for fault in registry.verify()] == ["the bytes are not a packet"]


def state_after(plan, kept):
    """The ids that are there after each step of a plan, and before the first."""
    states, clients = [set(kept)], dict(kept)
    for what, value in plan:
        if what == "put":
            clients[value.id] = value.client
        else:
            clients = {id: client for id, client in clients.items() if client != value}
        states.append(set(clients))
    return states


def test_what_a_kill_leaves_behind_the_end_is_cut_off(tmp_path):
    """SQLite removes the journal, and cuts the file only then: the last pages are as before the deletion."""
    path, packets = tmp_path / "registry.sqlite", [packet_of(seed, f"client {seed % 2}") for seed in range(8)]
    with Registry(path, RULES) as registry:
        for packet in packets:
            registry.put(packet.data)
        whole = path.read_bytes()
        registry.delete_client("client 1")
    short = path.stat().st_size
    path.write_bytes(path.read_bytes() + whole[short:])
    gone = [packet for packet in packets if packet.client == "client 1"]
    assert any(traces(tmp_path, packet) for packet in gone)
    with Registry(path, RULES) as registry:
        assert path.stat().st_size == short and not any(traces(tmp_path, packet) for packet in gone)
        assert registry.verify() == [] and len(registry) == 4
        registry.put(packets[1].data)
        assert registry.get([packets[1].id]) == [packets[1].data]


@pytest.mark.slow
def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path):
    """Twelve times: a child puts and deletes until it is killed. Then each step is whole, done or not done."""
    draw, path, kept = random.Random(0), tmp_path / "registry.sqlite", {}
    packets = [packet_of(seed, f"client {seed % 5}", compression=Compression(3, "float32")) for seed in range(60)]
    for _ in range(12):
        plan = [
            ("put", draw.choice(packets)) if draw.random() < 0.8 else ("delete", f"client {draw.randrange(5)}")
            for _ in range(3000)
        ]
        receiver, sender = PROCESSES.Pipe(duplex=False)
        bytes_of = [(what, value.data if what == "put" else value) for what, value in plan]
        process = PROCESSES.Process(target=child, args=(path, bytes_of, sender))
        process.start()
        sender.close()
        receiver.recv()
        time.sleep(draw.uniform(0, 0.1))
        assert process.is_alive()
        process.kill()
        process.join()
        acknowledged = 1
        with pytest.raises((EOFError, OSError)):
            while receiver.recv():
                acknowledged += 1
        receiver.close()
        process.close()
        states = state_after(plan, kept)
        with Registry(path) as registry:
            ids = registry.vectors().ids
            assert set(ids) in states[acknowledged : acknowledged + 2] and len(ids) == len(set(ids))
            assert registry.verify() == []
            kept = {packet.id: packet.client for packet in packets if packet.id in ids}
            assert len(kept) == len(ids)
        assert [file.name for file in tmp_path.iterdir()] == ["registry.sqlite"]
        assert not any(traces(tmp_path, packet) for packet in packets if packet.id not in kept)


@pytest.mark.slow
def test_two_processes_write_at_once(tmp_path):
    path, clients = tmp_path / "registry.sqlite", ("ada", "bob")
    packets = {name: [packet_of(seed, name) for seed in range(20)] for name in clients}
    pipes = [PROCESSES.Pipe(duplex=False) for _ in clients]
    plans = [[("put", packet.data) for packet in packets[name]] for name in clients]
    processes = [
        PROCESSES.Process(target=child, args=(path, plan, sender))
        for plan, (_, sender) in zip(plans, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
        process.close()
    for end in (end for pipe in pipes for end in pipe):
        end.close()
    with Registry(path) as registry:
        assert set(registry.vectors().ids) == {packet.id for name in clients for packet in packets[name]}
        assert registry.verify() == []


def test_bad_questions_are_answered(registry, packets, tmp_path):
    query = torch.ones(1, D_MODEL)
    for match, ask in {
        "ask `find`": lambda: registry.get(["unknown"]),
        "no tag 'client'": lambda: registry.find("ada", "client"),
        "no condition day": lambda: registry.search(query, 1, day=3),
        "no representation 'key'": lambda: registry.search(query, 1, "key"),
        "k is 0": lambda: registry.search(query, 0),
        "not finite": lambda: registry.search(query * torch.nan, 1),
        r"the queries are \(1, 3\)": lambda: registry.search(torch.ones(1, 3), 1),
        r"the queries are \(32,\)": lambda: registry.search(query[0], 1),
        "without rules": lambda: put(registry.path, None, packets[0]),
        "another model": lambda: put(registry.path, Rules("f" * 64, (1,), 2, 2), other_model()),
        "cannot be a registry": lambda: Registry(tmp_path / "no folder" / "registry.sqlite"),
    }.items():
        with pytest.raises(ValueError, match=match):
            ask()
    assert len(registry) == 12


def put(path, rules, packet):
    with Registry(path, rules) as registry:
        registry.put(packet.data)


def other_model():
    path = Trajectory({1: torch.ones(1, 2)}, {1: torch.ones(2)}, "f" * 64, torch.ones(2))
    return pack(path, Mkv(1.8 * torch.ones(2), torch.ones(2)), "ada", 0, {"question": "a" * 64, "answer": "b" * 64})


@pytest.mark.parametrize("content", [b"not a database at all" * 100, None])
def test_another_file_is_not_taken_for_a_registry_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "notes.sqlite"
    if content is None:
        plain = sqlite3.connect(path)
        plain.execute("CREATE TABLE notes (text)")
        plain.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot be a registry"):
        Registry(path)
    assert path.read_bytes() == before


def test_a_packet_of_the_format_before_can_be_found_and_erased(registry, packets):
    """A file from then is opened; who reads such a packet is told its format, and it can leave."""
    data = packet_before(packets[0])
    id = sha256(data).hexdigest()
    plain = sqlite3.connect(registry.path)
    with plain:
        plain.execute("UPDATE packets SET id = ?, data = ? WHERE id = ?", (id, data, packets[0].id))
    plain.close()
    registry.close()
    with Registry(registry.path, RULES) as opened:
        assert opened.get([id]) == [data]
        with pytest.raises(ValueError, match="has the format 'fleke-packet-1' instead of 'fleke-packet-2'"):
            Packet.read(data)
        assert [fault.what for fault in opened.verify()] == ["the bytes are not a packet"]
        assert opened.delete_packet(id) == 1 and opened.verify() == []


def test_an_empty_registry_answers(registry):
    assert len(registry) == 0 and registry.verify() == [] and registry.clusters() == {}
    assert registry.vectors().ids == () and registry.vectors().z.shape == (0, 0)
    assert registry.search(torch.ones(2, D_MODEL), 3).ids == [[], []]


def test_what_is_refused_changes_nothing(registry, packets):
    before = registry.path.read_bytes()
    with pytest.raises(Refused):
        registry.put(packets[0].data[:-1])
    assert registry.path.read_bytes() == before
