"""The files of a federation on this machine: each hospital's, the group's, and those of Flower's app."""

import json
import secrets
from pathlib import Path

from fleke_lib import load_facts
from fleke_lib.federation import Part
from fleke_lib.federation.flower.settings import save_group, save_identity
from fleke_lib.federation.sealing import Draws, Group, Identity
from fleke_lib.storage.files import DATA
from tools.federation.certificates import node_key
from tools.federation.processes import HOST

APP = """[project]
name = "carried"
version = "1.0.0"
description = "A federation of edits"
license = "MIT"
dependencies = []

[tool.flwr.app]
publisher = "fleke"

[tool.flwr.app.components]
serverapp = "carried:server_app"
clientapp = "carried:client_app"

[tool.flwr.app.config]
"""
MODULE = """from fleke_lib.federation.flower import apps

client_app = apps.client_app
server_app = apps.server_app
"""


def prepare(folder: Path, hospitals: int, per_slot: int, slots: int) -> tuple[tuple[Part, ...], bytes]:
    """What hospitals bring: facts, keys, the list of members and the secret; returns the parts and the secret.

    Raises:
        ValueError: the atlas has fewer facts.
    """
    names, each = [f"hospital-{i}" for i in range(hospitals)], per_slot * slots
    raw = json.loads((DATA / "atlas.json").read_text(encoding="utf-8"))
    facts = load_facts("atlas")
    if len(facts) != len(raw) or len(facts) < hospitals * each:
        raise ValueError(f"the atlas has {len(facts)} facts: give fewer hospitals, slots or facts a slot.")
    parts, identities, keys = [], {}, {}
    for i, name in enumerate(names):
        mine = slice(i * each, (i + 1) * each)
        (folder / f"{name}.json").write_text(json.dumps(raw[mine]), encoding="utf-8")
        cut = tuple(facts[mine][j : j + per_slot] for j in range(0, each, per_slot))
        parts.append(Part(name, tuple(tuple(slot) for slot in cut), ()))
        identities[name] = Identity.draw(name, Draws())
        save_identity(identities[name], folder / f"{name}.identity")
        keys[name] = node_key(folder / f"{name}.key")
    group = Group({name: one.member for name, one in identities.items()}, dealer=names[0])
    save_group(group, keys, folder / "group.json")
    secret = secrets.token_bytes(32)
    (folder / "secret.bin").write_bytes(secret)
    return tuple(parts), secret


def configuration_of(folder: Path, name: str, per_slot: int, policy: str, model: str) -> str:
    """What a hospital's SuperNode is told, as its `--node-config`."""
    files = {"folder": f"{name}.memory", "facts": f"{name}.json", "identity": f"{name}.identity"}
    files |= {"group": "group.json", "secret": "secret.bin"}
    told = " ".join(f'{key}="{folder / file}"' for key, file in files.items())
    return f'{told} per-slot={per_slot} policy="{policy}" model="{model}"'


def app_files(folder: Path, port: int, *, slots: int = 1, nodes: int = 1, patience: float = 600.0) -> None:
    """Flower's app, with what its server is told, and the address of the SuperLink for the command `flwr`."""
    told = {"registry": folder / "registry.db", "group": folder / "group.json", "rules": folder / "rules.json"}
    config = "".join(f'{name} = "{value}"\n' for name, value in told.items())
    config += f'slots = {slots}\nnodes = {nodes}\npatience = "{patience}"\n'
    (folder / "carried").mkdir(exist_ok=True)
    (folder / "carried" / "pyproject.toml").write_text(APP + config, encoding="utf-8")
    (folder / "carried" / "carried.py").write_text(MODULE, encoding="utf-8")
    (folder / "flwr").mkdir(exist_ok=True)
    (folder / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{HOST}:{port}"\n'
        f'root-certificates = "{folder / "ca.crt"}"\n',
        encoding="utf-8",
    )
