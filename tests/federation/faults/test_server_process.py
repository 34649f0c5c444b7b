"""The server's process is killed, and its disk is full: what was acknowledged is there, once, and nothing else.

The blind server runs in a process of its own (`serving`), with its real file; only Flower is not between.
"""

import sqlite3

import pytest

from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.sealing.store import SealedStore, keys_of
from tests.federation.faults.serving import served
from tests.federation.sample_packets import RULES, packet_of
from tests.federation.sealing.members import GROUP, sealed_of


def message_of(seed, client="ada"):
    """A `put` message and the id that acknowledges it."""
    sealed, _, wrapped = sealed_of(packet_of(seed, client))
    return joined([sealed.data, wrapped]), bytes.fromhex(sealed.id)


def put_one(store, seed):
    """Store a packet, in the form that this store takes."""
    sealed, _, wrapped = sealed_of(packet_of(seed))
    store.put(sealed.data, wrapped) if isinstance(store, SealedStore) else store.put(packet_of(seed).data)


def stored(path):
    """The sealed ids in a file, with repeats; the file must be sound."""
    with SealedStore(path, RULES, GROUP) as store:
        assert store.verify() == []
        _, records = store.since(0, "nobody")
    with sqlite3.connect(path) as db:
        ids = [bytes.fromhex(id) for (id,) in db.execute("SELECT id FROM packets")]
    db.close()
    assert len(records) == len(ids)
    return sorted(ids)


@pytest.mark.slow
def test_a_server_killed_after_any_acknowledged_upload_goes_on_from_its_file(tmp_path):
    """It is killed after the first, the third and the fourth upload. Clients send again what they have sent before."""
    path, messages, acknowledged = tmp_path / "store.db", [message_of(seed) for seed in range(6)], []
    for number in (1, 3, 4):
        with served(path) as server:
            for message, id in messages[:number]:
                assert server.handle("put", message, "ada") == id
                acknowledged.append(id)
            server.kill()
            with pytest.raises(OSError):
                server.handle("put", messages[number][0], "ada")
        assert stored(path) == sorted(set(acknowledged))
    with served(path) as server:
        assert [server.handle("put", message, "ada") for message, _ in messages] == [id for _, id in messages]
        number, *records = cut_apart(server.handle("since", b'[0,"bob"]', "bob"))
    assert int(number) == len(records) == len(messages)
    assert stored(path) == sorted(id for _, id in messages)


@pytest.mark.slow
def test_a_full_disk_refuses_uploads_in_one_sentence_and_keeps_what_was_acknowledged(tmp_path):
    """The files of the server's process may not grow any more; later they may, and the same messages are taken."""
    path, messages = tmp_path / "store.db", [message_of(seed) for seed in range(12)]
    acknowledged, reasons = [], []
    with served(path) as server:
        for message, _ in messages[:3]:
            acknowledged.append(server.handle("put", message, "ada"))
        size = max(path.stat().st_size, keys_of(path).stat().st_size)
        server.handle("limit", str(size + 20_000).encode())
        for message, _ in messages[3:]:
            try:
                acknowledged.append(server.handle("put", message, "ada"))
            except Refused as error:
                reasons.append(str(error))
        assert 3 < len(acknowledged) < len(messages)
        assert {reason.partition(" (")[0] for reason in reasons} == {f"{path} cannot grow, or its disk fails"}
        _, *records = cut_apart(server.handle("since", b'[0,"bob"]', "bob"))
        assert len(records) == len(acknowledged), "reading goes on"
        server.handle("limit", b"0")
        assert [server.handle("put", message, "ada") for message, _ in messages] == [id for _, id in messages]
    assert stored(path) == sorted(id for _, id in messages)


@pytest.mark.parametrize("kind", [Registry, SealedStore])
def test_no_room_for_another_page_is_one_sentence_and_changes_nothing(tmp_path, kind):
    """SQLite's own error for a disk without room, by its bound on the number of pages."""
    one = {} if kind is Registry else {"group": GROUP}
    with kind(tmp_path / "store.db", RULES, **one) as store:
        put_one(store, 0)
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        before = store.counts()
        with pytest.raises(ValueError, match=r"cannot grow, or its disk fails \(database or disk is full\)"):
            for seed in range(1, 9):
                put_one(store, seed)
                before = store.counts()
        assert store.counts() == before and store.verify() == []
        store._db.execute("PRAGMA max_page_count = 100000")
        put_one(store, 9)
