"""A registry's file that is damaged, that cannot be written, or that another process has locked."""

import os
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest
import torch

from fleke_lib.federation.registry import access
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.registry.registry import Registry
from tests.federation.sample_packets import D_MODEL, RULES, TAGS, fact_of, packet_of

PACKETS = [packet_of(seed, client=("ada", "bob")[seed % 2]) for seed in range(12)]
WITHDRAWN = packet_of(50)


def fill(path) -> Path:
    with Registry(path, RULES) as registry:
        for packet in (*PACKETS, WITHDRAWN):
            registry.put(packet.data)
        registry.withdraw(packets=[WITHDRAWN.id])
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("whole") / "registry.sqlite")


def page_size(path) -> int:
    return int.from_bytes(path.read_bytes()[16:18], "big")


def overwritten(path, whole, page) -> Path:
    """A copy of the file in which one page is noise."""
    data, size = bytearray(whole.read_bytes()), page_size(whole)
    data[page * size : (page + 1) * size] = b"\xa5" * size
    path.write_bytes(data)
    return path


def unreadable(registry) -> set[str]:
    """The ids of the packets that `get` does not give back as they were."""
    lost = set()
    for packet in PACKETS:
        try:
            if registry.get([packet.id]) != [packet.data]:
                lost.add(packet.id)
        except ValueError:  # no error of SQLite comes through
            lost.add(packet.id)
    return lost


def test_any_damaged_page_is_found_and_named_and_nothing_is_put_there(tmp_path, whole):
    pages, opened, named = whole.stat().st_size // page_size(whole), 0, set()
    for page in range(pages):
        path = overwritten(tmp_path / f"{page}.sqlite", whole, page)
        try:
            registry = Registry(path, RULES)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        with registry:
            opened += 1
            found = registry.verify()
            assert found
            assert {fault.id for fault in found} >= unreadable(registry)
            assert any(not fault.id and fault.what.startswith("the file is damaged (") for fault in found)
            named |= {fault.id for fault in found}
            with pytest.raises(Refused, match=r"is damaged \(.*\): call `verify`"):
                registry.put(packet_of(99).data)
            assert sqlite3.connect(path).execute("PRAGMA page_count").fetchone() == (pages,)
    assert opened > pages // 2
    assert named >= {packet.id for packet in PACKETS}


def test_damage_while_the_file_is_open_gets_one_sentence(tmp_path, whole):
    path = tmp_path / "registry.sqlite"
    path.write_bytes(whole.read_bytes())
    with Registry(path, RULES) as registry:
        registry.put(packet_of(40).data)
        for page in range(1, path.stat().st_size // page_size(path)):
            overwritten(path, path, page)
        registry._db.execute("PRAGMA shrink_memory")
        assert registry.verify()
        for change in (
            lambda: registry.put(packet_of(41).data),
            lambda: registry.withdraw(client="ada"),
            lambda: registry.delete_client("ada"),
        ):
            with pytest.raises(ValueError, match=r"is damaged \(.*\): "):
                change()


def test_reading_a_damaged_file_gets_one_sentence(tmp_path, whole):
    path = tmp_path / "registry.sqlite"
    path.write_bytes(whole.read_bytes())
    with Registry(path) as registry:
        for page in range(1, path.stat().st_size // page_size(path)):
            overwritten(path, path, page)
        registry._db.execute("PRAGMA shrink_memory")
        for read in (
            lambda: registry.get([PACKETS[0].id]),
            lambda: registry.find(PACKETS[0].answer),
            lambda: registry.search(torch.ones(1, D_MODEL), 2),
            lambda: registry.search(torch.ones(1, D_MODEL), 2, slot=0),
            registry.vectors,
            registry.clusters,
            registry.pending,
            lambda: registry.withdrawn([WITHDRAWN.id]),
            lambda: len(registry),
        ):
            with pytest.raises(ValueError, match=r"registry\.sqlite is damaged \(.*\): go on with a backup") as told:
                read()
            assert "\n" not in str(told.value)


@pytest.fixture
def frozen():
    """A registry's file that nobody may write, in a folder that nobody may write, for a user who is not root."""
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    path = fill(folder / "registry.sqlite")
    user, modes = os.geteuid(), ((path, 0o444), (folder, 0o555))
    for place, mode in modes:
        place.chmod(mode)
    if user == 0:
        os.seteuid(65534)
    yield path
    os.seteuid(user)
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_a_file_that_cannot_be_written_can_be_read(frozen):
    before = frozen.read_bytes()
    with Registry(frozen) as registry:
        assert len(registry) == len(PACKETS)
        assert registry.verify() == []
        assert registry.get([PACKETS[3].id]) == [PACKETS[3].data]
        assert registry.find(TAGS.answer(fact_of(4))) == [PACKETS[4].id]
        assert registry.search(torch.ones(1, D_MODEL), 3).cosines.shape == (1, 3)
        assert len(registry.vectors(client="ada").ids) == 6
        assert registry.clusters() == {} and len(registry.pending()) == 1
        for change in (
            lambda: registry.withdraw(client="ada"),
            lambda: registry.complete(registry.pending()[0]),
            lambda: registry.delete_client("ada"),
            lambda: registry.delete_packet(PACKETS[0].id),
            lambda: registry.set_clusters({PACKETS[0].id: 1}),
        ):
            with pytest.raises(ValueError, match="is open for reading alone, as it cannot be written: give a copy"):
                change()
        with pytest.raises(Refused, match="without rules"):
            registry.put(PACKETS[0].data)
    assert frozen.read_bytes() == before and [*frozen.parent.iterdir()] == [frozen]


def test_a_file_that_cannot_be_written_takes_no_rules(frozen):
    with pytest.raises(ValueError, match=r"registry\.sqlite cannot be written: open it without rules to read it"):
        Registry(frozen, RULES)


@pytest.mark.parametrize("mode", [stat.S_IRUSR | stat.S_IROTH, None])
def test_one_of_file_and_folder_is_enough(frozen, mode):
    """A file in a closed folder cannot be changed either, as a change writes a journal beside it."""
    user = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)
    (frozen if mode is None else frozen.parent).chmod(0o666 if mode is None else 0o777)
    os.seteuid(user)
    with Registry(frozen) as registry, pytest.raises(ValueError, match="reading alone"):
        registry.delete_client("ada")


def test_a_locked_file_is_called_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(access, "PATIENCE", 0.05)
    path = tmp_path / "registry.sqlite"
    with Registry(path, RULES) as registry:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        said = r"registry\.sqlite is locked by another process \(.*\): try again when that one is done"
        for use in (lambda: Registry(path), lambda: registry.put(packet_of(1).data), lambda: registry.withdraw("ada")):
            with pytest.raises(ValueError, match=said):
                use()
        other.close()
        registry.put(packet_of(1).data)
