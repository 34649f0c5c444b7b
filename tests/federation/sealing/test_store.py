"""The blind store: what it refuses, that nothing readable is in its bytes, and that a withdrawal destroys the keys."""

import shutil
import sqlite3
from dataclasses import replace

import pytest

from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.epochs import WRAPPED, Keyring, deal
from fleke_lib.federation.sealing.sealed import Sealed, open_body, seal
from fleke_lib.federation.sealing.store import SealedStore, keys_of
from tests.federation.sample_packets import RULES, packet_of, traces
from tests.federation.sealing.members import DRAWS, EPOCH_KEY, GROUP, IDENTITIES, KEYRING, MEMBERS, NAMES, sealed_of

PACKETS = [packet_of(seed, NAMES[seed % 3], slot=seed // 6) for seed in range(12)]


@pytest.fixture
def store(tmp_path):
    with SealedStore(tmp_path / "sealed.db", RULES, GROUP) as store:
        yield store


@pytest.fixture
def ids(store):
    """All packets put, and their sealed ids in the order of PACKETS."""
    found = []
    for packet in PACKETS:
        sealed, _, wrapped = sealed_of(packet)
        found.append(store.put(sealed.data, wrapped, packet.client))
    return found


def opened(path, keys_path):
    """The ids of the packets that a member opens from copies of the two files."""
    plain = sqlite3.connect(path)
    plain.execute("ATTACH DATABASE ? AS keys", (str(keys_path),))
    there = plain.execute("SELECT 1 FROM keys.sqlite_master WHERE name = 'wrapped'").fetchone()
    rows = plain.execute("SELECT card, body, keys FROM packets JOIN keys.wrapped USING (id)") if there else ()
    found = set()
    for card, body, wrapped in rows:
        sealed = Sealed.read(card + len(body).to_bytes(4, "little") + body)
        found.add(open_body(sealed, KEYRING.unwrap(sealed.card, wrapped), MEMBERS[sealed.card.head.client]).id)
    plain.close()
    return found


def test_everything_is_there_when_opened_again(store, ids):
    assert len(store) == 12 and store.verify() == []
    last, records = store.since(0, "bob")
    assert len(records) == 8 and store.since(last, "bob") == (last, [])
    with SealedStore(store.path) as again:
        assert again.since(0, "bob") == (last, records)
        assert [len(again.cards("slot", slot, "ada")) for slot in (0, 1, 2)] == [4, 4, 0]
        ((card, _),) = again.cards("answer", PACKETS[3].answer)
        assert again.bodies([ids[3]]) == [sealed_of(PACKETS[3])[0].body] and card == sealed_of(PACKETS[3])[0].card.data
        with pytest.raises(ValueError, match="not in"):
            again.bodies(["0" * 64])
        with pytest.raises(ValueError, match="not found by 'client'"):
            again.cards("client", "ada")
        with pytest.raises(Refused, match="without rules or group"):
            again.put(*data_of(PACKETS[0]))


def data_of(packet, **how):
    sealed, _, wrapped = sealed_of(packet, **how)
    return sealed.data, wrapped


def test_storing_twice_keeps_one(store, ids):
    for path in (store.path, keys_of(store.path)):
        before = path.read_bytes()
        assert [store.put(*data_of(packet), packet.client) for packet in PACKETS] == ids
        assert path.read_bytes() == before


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "int4"])
def test_no_vector_and_no_tag_of_a_target_is_in_the_files(store, tmp_path, precision):
    packets = [packet_of(seed, NAMES[seed % 3], compression=Compression(2, precision)) for seed in range(3)]
    for packet in packets:
        sealed, _, wrapped = sealed_of(packet)
        store.put(sealed.data, wrapped)
    for packet in packets:
        vectors = replace(packet, question="0" * 64, answer="0" * 64)  # these tags stand in the head
        assert traces(tmp_path, vectors) == []
        assert all(packet.target.encode() not in file.read_bytes() for file in tmp_path.iterdir())
    folder = tmp_path / "plain"
    folder.mkdir()
    with Registry(folder / "registry.db", RULES) as registry:
        for packet in packets:
            registry.put(packet.data)
    assert all(traces(folder, packet) for packet in packets), "the same search finds them where nothing is sealed"


def test_a_withdrawal_makes_every_copy_useless(store, ids, tmp_path):
    backup = store.backup(tmp_path / "backup.db")
    image, image_keys = tmp_path / "image.db", tmp_path / "image.keys"
    shutil.copy(store.path, image), shutil.copy(keys_of(store.path), image_keys)
    gone = {packet.id for packet in PACKETS if packet.client == "bob"}
    kept = {packet.id for packet in PACKETS} - gone
    wrapped = {packet.client: [] for packet in PACKETS}
    for packet in PACKETS:
        wrapped[packet.client].append(data_of(packet)[1])
    assert opened(backup, keys_of(store.path)) == gone | kept
    request = store.withdraw(client="bob")
    assert (request.packets, len(request.marks)) == (4, 4) and len(store) == 8 and store.verify() == []
    assert opened(backup, keys_of(store.path)) == kept, "whoever has the group's key opens what is left"
    assert opened(backup, tmp_path / "none.keys") == set(), "the backup has no keys"
    assert opened(image, image_keys) == gone | kept, "the control: with the keys of before everything opens"
    after, before = keys_of(store.path).read_bytes(), image_keys.read_bytes()
    assert all(keys in before and keys not in after and keys[:16] not in after for keys in wrapped["bob"])
    assert all(keys in after for keys in wrapped["ada"])
    assert not any(keys in backup.read_bytes() for some in wrapped.values() for keys in some)
    for file in (store.path, keys_of(store.path)):
        assert all(data_of(p)[0][200:232] not in file.read_bytes() for p in PACKETS if p.client == "bob")
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.endswith("journal")) == []
    assert store.pending() == [request] and store.complete(request).completed and store.pending() == []


def test_single_packets_are_withdrawn_and_do_not_come_back(store, ids):
    request = store.withdraw(packets=[ids[1], ids[4]])
    assert request.packets == 2 and store.withdrawn(ids) == [ids[1], ids[4]]
    assert store.withdraw(packets=[ids[4], ids[1]]) == request
    with pytest.raises(Refused, match="was withdrawn: seal the packet anew"):
        store.put(*data_of(PACKETS[1]), "bob")
    anew, keys = seal(PACKETS[1], IDENTITIES["bob"], 0, Draws())
    assert store.put(anew.data, KEYRING.wrap(anew.card, keys, Draws()), "bob") == anew.id != ids[1]
    with pytest.raises(ValueError, match="never here"):
        store.withdraw(packets=["ab" * 32])
    with pytest.raises(ValueError, match="'eve' never had a packet"):
        store.withdraw(client="eve")
    for wrong in ({}, {"client": "ada", "packets": ids}):
        with pytest.raises(ValueError, match="either `client` or `packets`"):
            store.withdraw(**wrong)


def test_what_is_not_admitted_changes_nothing(store, ids):
    packet, new = PACKETS[1], packet_of(40, "bob", slot=3)
    sealed, keys, wrapped = sealed_of(new)
    mallory = Sealed(
        replace(sealed.card, signature=IDENTITIES["mallory"].signing.sign(sealed.card.signed)), sealed.body
    )
    outsider, _, foreign = sealed_of(packet_of(40, "mallory"))
    later, _, other = sealed_of(new, 1, Keyring().plus(1, EPOCH_KEY))
    again, again_keys = seal(packet, IDENTITIES["bob"], 0, Draws())
    head = replace(sealed.card.head, fingerprint="ab" * 32)
    strange = replace(sealed.card, head=head)
    strange = Sealed(replace(strange, signature=IDENTITIES["bob"].signing.sign(strange.signed)), sealed.body)
    swapped = Sealed(replace(sealed.card, head=replace(sealed.card.head, slot=9)), sealed.body)
    before = store.path.read_bytes(), keys_of(store.path).read_bytes()
    for match, data, some, sender in (
        ("not a sealed packet", sealed.data[:-1], wrapped, "bob"),
        ("not a sealed packet", b"", wrapped, "bob"),
        ("not a sealed packet", new.data, wrapped, "bob"),
        (f"with {WRAPPED} bytes of wrapped keys", sealed.data, wrapped[:-1], "bob"),
        ("more than the", bytes(10**6), wrapped, "bob"),
        ("is of 'bob', not of 'ada'", sealed.data, wrapped, "ada"),
        ("does not have the signature of 'bob'", mallory.data, wrapped, "bob"),
        ("does not have the signature of 'bob'", swapped.data, wrapped, "bob"),
        ("'mallory' is no member", outsider.data, foreign, "mallory"),
        ("is of model 'abababababab'", strange.data, wrapped, "bob"),
        ("is of epoch 1 and the group is at 0", later.data, other, "bob"),
        ("repeats an answer that 'bob' has published in slot 0", again.data,
         KEYRING.wrap(again.card, again_keys, Draws()), "bob"),
        ("is here with other keys", sealed_of(packet)[0].data, KEYRING.wrap(sealed_of(packet)[0].card, keys, Draws()),
         "bob"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=match) as told:
            store.put(data, some, sender)
        assert "\n" not in str(told.value)
        assert (store.path.read_bytes(), keys_of(store.path).read_bytes()) == before
    store.group = GROUP.left("bob")
    with pytest.raises(Refused, match="'bob' is no member of this group, or was revoked"):
        store.put(sealed.data, wrapped, "bob")
    store.group, store.quota = GROUP, 4
    with pytest.raises(Refused, match="one more than the 4 that 'bob' may store"):
        store.put(sealed.data, wrapped, "bob")


def test_deals_are_kept_for_their_members_beside_the_packets(store, ids, tmp_path):
    one = deal(EPOCH_KEY, 0, IDENTITIES["ada"], MEMBERS["bob"], DRAWS)
    store.put_deal(one.data, "ada"), store.put_deal(one.data, "ada")
    assert store.deals("bob") == [one.data] and store.deals("cleo") == []
    for match, other, sender in (
        ("was dealt another key", deal(bytes(32), 0, IDENTITIES["ada"], MEMBERS["bob"], DRAWS), "ada"),
        ("not of the dealer 'ada'", deal(EPOCH_KEY, 0, IDENTITIES["cleo"], MEMBERS["bob"], DRAWS), "cleo"),
        ("not of the dealer 'ada'", one, "bob"),
        ("'mallory' is no member", deal(EPOCH_KEY, 0, IDENTITIES["ada"], MEMBERS["mallory"], DRAWS), "ada"),
    ):
        with pytest.raises(Refused, match=match):
            store.put_deal(other.data, sender)
    assert one.data not in store.backup(tmp_path / "backup.db").read_bytes()


def test_files_of_another_kind_are_refused(store, ids, tmp_path):
    with Registry(tmp_path / "registry.db", RULES) as registry:
        registry.put(PACKETS[0].data)
    with pytest.raises(ValueError, match="cannot be a registry"):
        SealedStore(tmp_path / "registry.db")
    store.close()
    with pytest.raises(ValueError, match="cannot be a registry"):
        Registry(store.path)
    (tmp_path / "text.db").write_text("a text, and no database at all, long enough to be read as one" * 20)
    with pytest.raises(ValueError, match="cannot be a registry"):
        SealedStore(tmp_path / "text.db")


def test_what_was_changed_in_the_file_is_found(store, ids):
    plain = sqlite3.connect(store.path)
    plain.execute("ATTACH DATABASE ? AS keys", (str(keys_of(store.path)),))
    plain.execute("UPDATE packets SET slot = 9 WHERE id = ?", (ids[0],))
    plain.execute("UPDATE packets SET body = zeroblob(length(body)) WHERE id = ?", (ids[1],))
    plain.execute("DELETE FROM keys.wrapped WHERE id = ?", (ids[2],))
    plain.commit()
    plain.close()
    assert {fault.id for fault in store.verify()} == set(ids[:3])
    assert store.put(*data_of(packet_of(50, "cleo", compression=Compression(0, "int8"))), "cleo")
