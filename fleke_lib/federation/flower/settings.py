"""The files that a node is told of: identity, group and secret; and the node that follows from their paths.

identity   the member's two private keys; only its owner reads it
group      the members' public keys, and the public key of each member's SuperNode; the same for everybody
secret     the key of the tags, shared by the members alone
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.flower.bounds import load_rules, load_sum_rules
from fleke_lib.federation.flower.node import Node, NodeSettings
from fleke_lib.federation.flower.summing_node import SummingNode
from fleke_lib.federation.packets.tags import load_secret
from fleke_lib.federation.registry.budget import Budget
from fleke_lib.federation.retrieval.named import policy_named
from fleke_lib.federation.sealing.keys import Group, Identity, Member
from fleke_lib.model import shipped
from fleke_lib.model.language_model import LanguageModel, load_model
from fleke_lib.storage.files import half_made, read_json, user_path, write_json

NEEDED = ("folder", "facts", "per-slot", "identity", "group", "secret")


def node_from(told: Mapping[str, object]) -> Node:
    """The node that its owner describes.

    Args:
        told: folder, facts (a JSON file that `load_facts` reads), per-slot (how many of them become due in slot 0, 1,
            ...; the last number goes on for all later slots), identity, group, secret; and optionally policy,
            representation, model, most-weight (see `node.NodeSettings.budget`), and rules: with this file, which all
            members share, packets stay here and sums are added up; policy and representation are of no use then.

    Raises:
        ValueError: a name is missing, or a file is not what it should be, such as rules of sealed packets.
    """
    if missing := [name for name in NEEDED if name not in told]:
        raise ValueError(f"the node's configuration has no {missing[0]!r}: give {', '.join(NEEDED)}.")
    policy, representation = str(told.get("policy", "majority")), str(told.get("representation", "centred"))
    settings = NodeSettings(
        user_path(str(told["folder"])),
        by_slot(load_facts(str(told["facts"])), told["per-slot"]),
        load_identity(user_path(str(told["identity"]))),
        load_group(user_path(str(told["group"])))[0],
        load_secret(user_path(str(told["secret"]))),
        ClientConfig(policy_named(policy), representation),
        None if told.get("most-weight") is None else Budget(weight=float(str(told["most-weight"]))),
    )

    def load() -> LanguageModel:
        return load_model(str(told.get("model", shipped.NAME)))

    if told.get("rules") is None:
        return Node(settings, load)
    rules = user_path(str(told["rules"]))
    if (summed := load_sum_rules(rules)) is None:
        raise ValueError(f"{rules} is for sealed packets: give the file of `rules --protection summed`, or none.")
    return SummingNode(settings, load_rules(rules), summed, load)


def by_slot(facts: Sequence[Fact], numbers: Sequence[int]) -> tuple[tuple[Fact, ...], ...]:
    """Facts cut into slots of so many, the last number for all that follow; the last slot may have fewer."""
    if not numbers or min(numbers) < 0 or numbers[-1] < 1:
        raise ValueError(f"per-slot is {list(numbers)}: give numbers of facts that become due, the last one from 1.")
    slots, start = [], 0
    while start < len(facts):
        number = numbers[min(len(slots), len(numbers) - 1)]
        slots.append(tuple(facts[start : start + number]))
        start += number
    return tuple(slots)


def save_identity(identity: Identity, path: Path) -> Path:
    """Write a member's private keys to a file that only its owner can read."""
    keys = [identity.name, identity.signing.private_bytes_raw().hex(), identity.agreement.private_bytes_raw().hex()]
    with half_made(path) as half:
        half.touch(mode=0o600)
        half.write_text(json.dumps(keys), encoding="utf-8")
    return path


def load_identity(path: Path) -> Identity:
    """Read what `save_identity` wrote. Raises ValueError if the file is something else."""
    try:
        name, signing, agreement = json.loads(path.read_text(encoding="utf-8"))
        keys = bytes.fromhex(signing), bytes.fromhex(agreement)
        return Identity(
            name, Ed25519PrivateKey.from_private_bytes(keys[0]), X25519PrivateKey.from_private_bytes(keys[1])
        )
    except (TypeError, ValueError):
        raise ValueError(f"{path} is not an identity: give the file that `save_identity` wrote.") from None


def save_group(group: Group, nodes: Mapping[str, str], path: Path) -> Path:
    """Write the members' public keys. nodes: by member, its SuperNode's public key in PEM."""
    members = {
        name: {"signing": one.signing.hex(), "agreement": one.agreement.hex(), "node": nodes.get(name, "")}
        for name, one in group.members.items()
    }
    revoked = sorted(key.hex() for key in group.revoked)
    return write_json(path, {"dealer": group.dealer, "epoch": group.epoch, "revoked": revoked, "members": members})


def load_group(path: Path) -> tuple[Group, dict[str, str]]:
    """The group, and each member's SuperNode key. Raises ValueError if the file is not what `save_group` wrote."""
    about = read_json(path)
    try:
        members = {
            name: Member(name, bytes.fromhex(one["signing"]), bytes.fromhex(one["agreement"]))
            for name, one in about["members"].items()
        }
        revoked = frozenset(map(bytes.fromhex, about["revoked"]))
        nodes = {name: one["node"] for name, one in about["members"].items()}
        return Group(members, about["dealer"], about["epoch"], revoked), nodes
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is not a list of members: give the file that `save_group` wrote.") from None
