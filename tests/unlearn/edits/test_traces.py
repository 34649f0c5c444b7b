"""The byte search: what it finds and where, what it must not find, and that it finds what SQLite leaves behind."""

import os
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.storage import pieces as module
from fleke_lib.unlearn.edits.traces import ByteTrace, traces, wholes
from tests.federation.sample_packets import LAYERS, RULES, packet_of

COMPRESSIONS = (Compression(0, "int8"), Compression(1, "float16"), Compression(2, "float32"))
EIGHT_BITS = Compression(0, "int8")


def filled(folder, compression=EIGHT_BITS, layers=LAYERS):
    """A registry of twelve packets of three clients, and bob's."""
    clients = ("ada", "bob", "cleo") * 4
    packets = [packet_of(seed, client, 0, compression, layers) for seed, client in enumerate(clients)]
    registry = Registry(folder / "registry.sqlite", replace(RULES, layers=layers))
    for packet in packets:
        registry.put(packet.data)
    return registry, packets, [packet for packet in packets if packet.client == "bob"]


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_withdrawal_leaves_nothing_in_the_files(tmp_path, compression):
    registry, packets, gone = filled(tmp_path, compression)
    kept = [packet for packet in packets if packet not in gone]
    before = traces(tmp_path, gone, kept)
    assert all({"id", "z", "h", "means", "answer"} <= {trace.what for trace in before.of(packet)} for packet in gone)
    registry.withdraw(client="bob")
    after = traces(tmp_path, gone, kept)
    assert len(after) == 0 and after.pieces == before.pieces > 30 * len(gone)
    assert (after.files, after.size, after.packets) == (1, registry.path.stat().st_size, 4)
    assert all(traces(tmp_path, [packet], gone).of(packet) for packet in kept)
    registry.close()


@pytest.mark.parametrize("setting", ["secure_delete = OFF", "journal_mode = WAL", "journal_mode = PERSIST"])
def test_without_these_settings_it_finds_them(tmp_path, setting):
    """The search can fail: the same deletion by a connection that is set otherwise leaves the vectors in the files.

    The packets are so small that two rows share a page of the file. A page of its own would be freed and cut off.
    """
    registry, packets, gone = filled(tmp_path, layers=LAYERS[:1])
    registry.close()
    plain = sqlite3.connect(tmp_path / "registry.sqlite")
    plain.execute("PRAGMA foreign_keys = ON")
    plain.execute(f"PRAGMA {setting}")
    with plain:
        plain.execute("DELETE FROM packets WHERE client = 'bob'")
    assert plain.execute("SELECT count(*) FROM packets WHERE client = 'bob'").fetchone() == (0,)
    found = traces(tmp_path, gone, [packet for packet in packets if packet not in gone])
    plain.close()
    assert all("z in float32" in {trace.what for trace in found.of(packet)} for packet in gone)


def test_offsets_are_those_of_the_bytes(tmp_path):
    packet = packet_of(1)
    whole = wholes(packet)["z in float32"]
    content = noise(1001) + whole + noise(777, 1)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "run.bin").write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")
    found = traces(tmp_path, [packet])
    assert [*found] == [ByteTrace(tmp_path / "deep" / "er" / "run.bin", 1001, len(whole), "z in float32", packet.id)]
    assert (found.files, found.size) == (2, len(content))
    assert [*traces(tmp_path / "deep" / "er" / "run.bin", [packet])] == [*found]


@given(
    st.integers(0, 60), st.integers(63, 128), st.integers(0, 65), st.sampled_from(["z in float32", "means", "shares"])
)
def test_any_63_bytes_that_are_left_are_found(tmp_path_factory, begin, length, place, what):
    packet = packet_of(3, compression=Compression(0, "float32"))
    whole = wholes(packet)[what]
    piece = whole[begin : begin + length]
    path = tmp_path_factory.getbasetemp() / "left.bin"
    path.write_bytes(noise(place) + piece + noise(90, 1))
    (trace,) = traces(path, [packet])
    assert trace.offset <= place and place + len(piece) <= trace.offset + trace.length
    assert trace.length <= len(piece) + 2, "noise continues it by chance at most"


@pytest.mark.parametrize("block", [1, 33, 64, 1000])
def test_blocks_do_not_change_what_is_found(tmp_path, monkeypatch, block):
    registry, _, gone = filled(tmp_path)
    registry.close()
    content = (tmp_path / "registry.sqlite").read_bytes()
    (tmp_path / "registry.sqlite").write_bytes(content[content.index(gone[0].data[-200:]) - 2500 :][:3000])
    expected = traces(tmp_path, gone[:1])
    monkeypatch.setattr(module, "BLOCK", block)
    assert [*traces(tmp_path, gone[:1])] == [*expected] and len(expected)


def test_what_a_packet_that_stays_has_too_is_no_trace(tmp_path):
    """Two clients with one fact have the same vectors; what is left of the other's is not this one's."""
    gone, kept = packet_of(1, "bob"), packet_of(1, "ada")
    with Registry(tmp_path / "registry.sqlite", RULES) as registry:
        registry.put(kept.data)
        assert {trace.what for trace in traces(tmp_path, [gone])} >= {"z", "z in float32", "answer"}
        assert not len(traces(tmp_path, [gone], [kept]))
        registry.put(gone.data)
        assert {trace.what for trace in traces(tmp_path, [gone], [kept])} == {"id"}


def test_zeros_are_no_trace(tmp_path):
    (tmp_path / "zeros").write_bytes(bytes(100_000))
    for precision in ("int8", "int4"):
        packet = packet_of(1, compression=Compression(8, precision))
        assert bytes(64) in wholes(packet)["axes"], "axes that are missing are zeros"
        assert not len(traces(tmp_path, [packet]))


def test_ids_are_found_as_text_and_raw(tmp_path):
    packet = packet_of(1)
    (tmp_path / "ledger.jsonl").write_text(f'{{"kind": "published", "packet": "{packet.id}"}}')
    (tmp_path / "message").write_bytes(noise(3) + bytes.fromhex(packet.id))
    assert [(t.file.name, t.what) for t in traces(tmp_path, [packet])] == [
        ("ledger.jsonl", "id"),
        ("message", "id, raw"),
    ]


def test_what_cannot_be_searched_is_said(tmp_path):
    packet = packet_of(1)
    (tmp_path / "empty folder").mkdir()
    for match, place in {
        "there is no file in": tmp_path / "empty folder",
        "No such file": tmp_path / "nowhere",
    }.items():
        with pytest.raises((ValueError, OSError), match=match):
            traces(place, [packet])
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ValueError, match="no packet to look for"):
        traces(tmp_path, [])
    with pytest.raises(ValueError, match="in packets that stay"):
        traces(tmp_path, [packet], [packet])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not an ordinary file"):
        traces(tmp_path, [packet])
    (tmp_path / "pipe").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        traces(tmp_path, [packet])


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(f"{path} is closed")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="closed"):
        traces(tmp_path, [packet_of(1)])


def test_a_vector_is_searched_to_its_end(tmp_path):
    packet = packet_of(1, compression=EIGHT_BITS)
    whole = wholes(packet)["means"]
    assert len(whole) % 32
    (tmp_path / "left").write_bytes(noise(5) + whole[-32:] + noise(5, 1))
    assert [(trace.offset, trace.what) for trace in traces(tmp_path, [packet])] == [(5, "means")]
