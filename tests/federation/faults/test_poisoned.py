"""A member that lies within the norms, and what a cap for each member changes: who adopts, and what.

The score that this costs or saves is measured on the default model in docs/insiders.md; here is whether nodes apply the
bounds. Desk and nodes are in one process and exchange real bytes.
"""

import re
from dataclasses import replace

import pytest

from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.flower.node import Node
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.budget import Budget
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.privacy.attacks.poisoning import erasing
from tests.federation.flower.loopback import Loopback, desk_of, nodes_of
from tests.federation.flower.test_desk import APART
from tests.federation.small import scenario

ALL = ClientConfig(Everyone())
LIAR = APART[2].name


def federation(folder, budget, times):
    """Nodes with this budget, of which one puts axes along others' keys; the others' refusals and adoptions."""
    lm, provider, moments = scenario()
    nodes, group = nodes_of(folder, APART, ALL)
    for name, node in nodes.items():
        settings = replace(node.settings, folder=folder / "with" / name, budget=budget)
        nodes[name] = Node(settings, lambda: lm, lambda _: moments, lambda *_: provider)
    liar = nodes[LIAR]
    honest, rules = liar.channel.put, replace(liar.rules, leverage=None)

    def lie(data):
        packet = Packet.read(data)
        return honest(erasing(packet, [packet], rules, LIAR, packet.slot, times=times).data)

    liar.channel.put = lie
    desk_of(folder / "store.db", group, Loopback(nodes)).run(3)
    others = [node for name, node in nodes.items() if name != LIAR]
    adopted = [{p.client for _, p in node.client.adopted.values()} for node in others]
    reasons = [[*node.channel.refusals.values(), *node.client.refused.values()] for node in others]
    return adopted, reasons


def test_without_a_cap_everybody_adopts_the_lies(tmp_path):
    adopted, reasons = federation(tmp_path, None, times=500.0)
    assert all(LIAR in clients for clients in adopted) and not any(reasons)


@pytest.mark.parametrize(
    ("budget", "times", "reason"),
    [
        (Budget(), 500.0, "times the leverage of an ordinary key"),
        (Budget(packets=0), 1.0, "is its budget|are its budget"),
    ],
    ids=["leverage", "packets"],
)
def test_with_a_cap_nobody_adopts_what_is_above_it(tmp_path, budget, times, reason):
    adopted, reasons = federation(tmp_path, budget, times)
    assert not any(LIAR in clients for clients in adopted)
    assert all(any(re.search(reason, one) for one in some) for some in reasons)
