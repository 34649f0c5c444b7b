"""The files of a federation on this machine: each hospital's, and the group's."""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from fleke_lib import Fact, load_facts
from fleke_lib.federation import Part, partition
from fleke_lib.federation.flower.settings import save_group, save_identity
from fleke_lib.federation.sealing import Draws, Group, Identity
from fleke_lib.storage.files import DATA
from tools.federation.certificates import node_key

TUNED = 111  # facts at the beginning of the atlas on which layers and lambda were chosen, so they are left out
OVERLAP = 0.2  # share of the edits that another hospital has published before


def shares(hospitals: int, per_slot: int, slots: int, overlap: float = OVERLAP) -> tuple[Part, ...]:
    """Who edits which facts of the atlas when: as in chapter 05, each relation belongs to two hospitals.

    Raises:
        ValueError: the atlas has fewer facts.
    """
    by_relation: dict[str, list[Fact]] = {}
    for fact in load_facts("atlas")[TUNED:]:
        by_relation.setdefault(fact.relation, []).append(fact)
    each = per_slot * slots + per_slot * slots % 2  # each half of a relation has as many
    enough = [facts for facts in by_relation.values() if len(facts) >= each][:hospitals]
    if len(enough) < hospitals:
        raise ValueError(
            f"{len(enough)} relations of the atlas have {each} facts: give fewer hospitals, slots or facts."
        )
    chosen = [fact for facts in enough for fact in facts[:each]]
    parts = partition(chosen, hospitals, slots=slots, overlap=overlap if slots > 1 else 0.0, seed=0)
    return tuple(Part(f"hospital-{i}", part.slots, part.relevant) for i, part in enumerate(parts))


def prepare(folder: Path, parts: Sequence[Part]) -> bytes:
    """What hospitals bring: facts, keys, the list of members and the secret, which is returned."""
    raw = json.loads((DATA / "atlas.json").read_text(encoding="utf-8"))
    records = dict(zip(load_facts("atlas"), raw, strict=True))
    identities, keys = {}, {}
    for part in parts:
        own = [records[fact] for fact in part.facts]
        (folder / f"{part.name}.json").write_text(json.dumps(own), encoding="utf-8")
        identities[part.name] = Identity.draw(part.name, Draws())
        save_identity(identities[part.name], folder / f"{part.name}.identity")
        keys[part.name] = node_key(folder / f"{part.name}.key")
    group = Group({name: one.member for name, one in identities.items()}, dealer=parts[0].name)
    save_group(group, keys, folder / "group.json")
    secret = secrets.token_bytes(32)
    (folder / "secret.bin").touch(mode=0o600)
    (folder / "secret.bin").write_bytes(secret)
    return secret


def node_files(folder: Path, name: str) -> dict[str, Path]:
    """What a hospital's node is given, by the command's argument."""
    files = {"folder": f"{name}.memory", "facts": f"{name}.json", "identity": f"{name}.identity"}
    files |= {"group": "group.json", "secret": "secret.bin", "node-key": f"{name}.key", "root-certificates": "ca.crt"}
    return {key: folder / file for key, file in files.items()}
