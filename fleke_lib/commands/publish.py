"""Compute the packets of a client's facts, and publish them in a registry's file.

    publish --registry r.db --client bern --facts facts.json --secret secret.bin --slot 0

A fact that somebody has published with the same answer is not computed again. The text stays here: the file gets
vectors and keyed tags. Publishing the same facts twice changes nothing.
"""

import argparse

from fleke_lib.commands.opening import add_client, check_plain
from fleke_lib.edit.trajectories import check_shareable
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation.client import Client, ClientConfig
from fleke_lib.federation.packets.tags import Tags, load_secret
from fleke_lib.federation.provider import VectorProvider
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.retrieval.policies import Nobody
from fleke_lib.federation.server import Channel, Server
from fleke_lib.model.language_model import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `publish`."""
    add_client(parser)
    parser.add_argument("--slot", type=int, default=0, metavar="N", help="the slot to publish in (0)")


def main(arguments: argparse.Namespace) -> int:
    """Publish, and say how many packets are new, and how many bytes crossed."""
    path = check_plain(arguments.registry)
    tags, facts = Tags(load_secret(arguments.secret)), load_facts(arguments.facts)
    lm = load_model(arguments.model)
    check_shareable(lm, facts)
    rules = Rules.of(lm)
    with Registry(path, rules) as registry:
        channel = Channel(Server(registry), arguments.client)
        client = Client(channel, rules, tags, VectorProvider(lm), ClientConfig(Nobody()))
        kinds = [event.kind for event in client.edit(facts, arguments.slot)]
    new, old = kinds.count("published"), kinds.count("reused")
    print(f"{new} packets published, {old} were there; {channel.sent} bytes sent, {channel.received} received")
    return 0
