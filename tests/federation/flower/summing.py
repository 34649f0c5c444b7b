"""Nodes that add up sums and their desk in one process, and what the same federation has in one process."""

import functools
from pathlib import Path

import torch

from fleke_lib.edit.edit import Edit
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.flower.bounds import SumRules, agreement
from fleke_lib.federation.flower.node import NodeSettings
from fleke_lib.federation.flower.summing_desk import SummingDesk
from fleke_lib.federation.flower.summing_node import SummingNode
from fleke_lib.federation.flower.sums_server import SummingServer
from fleke_lib.federation.partitioning import Part, partition
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.retrieval.policies import Nobody
from fleke_lib.federation.rounds import Run, run_fedit
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.keys import Group, Identity
from fleke_lib.federation.summing import Summing, total
from tests.federation.flower.loopback import SECRET
from tests.federation.small import facts, scenario

PARTS = partition(facts(), 4, slots=2, seed=1)
NAMES = [part.name for part in PARTS]


def rules_of() -> tuple[Rules, SumRules]:
    lm, _, moments = scenario()
    rules = Rules.of(lm)
    return rules, SumRules.of(lm, rules, moments, members=len(PARTS), facts=8)


def node_of(folder: Path, part: Part, identity: Identity, group: Group, summed: SumRules | None = None) -> SummingNode:
    """A node with the tiny model; the same folder gives the same node again."""
    lm, shared, moments = scenario()
    settings = NodeSettings(folder / part.name, part.slots, identity, group, SECRET, ClientConfig(Nobody()))
    rules, own = rules_of()
    return SummingNode(settings, rules, summed or own, lambda: lm, lambda _: moments, lambda *_: shared)


def nodes_of(folder: Path) -> tuple[dict[str, SummingNode], Group]:
    identities = {name: Identity.draw(name, Draws()) for name in NAMES}
    group = Group({name: one.member for name, one in identities.items()}, dealer=NAMES[0])
    return {part.name: node_of(folder, part, identities[part.name], group) for part in PARTS}, group


def desk_of(group: Group, transport, **how) -> SummingDesk:
    rules, summed = rules_of()
    server = SummingServer(rules, group, agreement(rules, summed, group))
    return SummingDesk(server, tuple(group.members), transport, **how)


@functools.cache
def in_one_process(parts: tuple[Part, ...] = PARTS) -> Run:
    lm, provider, _ = scenario()
    protection = Summing(rules_of()[1].scales)
    return run_fedit(lm, parts, ClientConfig(Nobody()), provider=provider, secret=SECRET, protection=protection)


def edit_of(run: Run, **how) -> Edit:
    """The edit of `summing.total`."""
    return total(run, scenario()[2], **how).edit


def equal(one: Edit, other: Edit) -> bool:
    """Whether all layers have the same bits."""
    return one.layers == other.layers and all(torch.equal(one.delta(at), other.delta(at)) for at in one.layers)
