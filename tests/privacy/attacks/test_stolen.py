"""A thief's copies of a sealed store: which packets open with which keys."""

import shutil

from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.sealing import Keyring, SealedStore, Sealing, keys_of
from fleke_lib.privacy.attacks.stolen import opened
from tests.federation.small import facts, scenario


def test_what_opens_needs_the_groups_key_and_the_packets_own(tmp_path):
    lm, provider, _ = scenario()
    seals, store = Sealing(), tmp_path / "store.db"
    parts = partition(facts(), 3, slots=2, seed=1)
    run = run_fedit(lm, parts, Everyone(), provider=provider, secret=b"s", path=store, protection=seals)
    group, keyring = seals.group(run.clients), seals.keyring()
    with SealedStore(store) as opened_store:
        copy = opened_store.backup(tmp_path / "backup.db")
    before = shutil.copy(keys_of(store), tmp_path / "before.keys")
    files = copy.read_bytes(), before.read_bytes()

    def readable(keys, ring=keyring):
        return {packet.id: packet.data for packet in opened(copy, keys, ring, group)}

    everything = {id: packet.data for id, packet in run.packets.items()}
    assert readable(before) == everything
    assert readable(before, Sealing().keyring()) == {} == readable(before, Keyring()), "another group's key, and none"
    with SealedStore(store) as opened_store:
        opened_store.withdraw(client="client 1")
    stay = {id: packet.data for id, packet in run.packets.items() if packet.client != "client 1"}
    assert readable(keys_of(store)) == stay != everything
    assert readable(before) == everything, "keys that somebody copied are not destroyed"
    assert (copy.read_bytes(), before.read_bytes()) == files
