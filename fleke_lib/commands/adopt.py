"""Adopt what others have published, and write the edit that follows from own and adopted packets.

    adopt --registry r.db --client bern --facts facts.json --secret secret.bin --to edit.safetensors

The client's own facts must be published before. For each slot in turn the policy chooses among what others have
published up to it. Nothing is published, and no text is read but the client's own.
"""

import argparse
from collections.abc import Sequence

from fleke_lib.commands.opening import add_client, check_plain, policy_of, there
from fleke_lib.edit.disturbance import within_budget
from fleke_lib.edit.moments import second_moments
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation.client import OFFERED, Client, ClientConfig
from fleke_lib.federation.packets.tags import Tags, load_secret
from fleke_lib.federation.provider import PreparedFact
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.retrieval.named import CHOICES
from fleke_lib.federation.server import Channel, Server
from fleke_lib.federation.weights import settled
from fleke_lib.model.language_model import load_model
from fleke_lib.storage.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `adopt`."""
    add_client(parser)
    parser.add_argument("--policy", type=policy_of, default="majority", help=f"one of {CHOICES} (majority)")
    parser.add_argument("--representation", choices=OFFERED, default="centred", help="what is compared (centred)")
    parser.add_argument("--to", type=user_path, required=True, metavar="FILE", help="where the edit is written")


def main(arguments: argparse.Namespace) -> int:
    """Adopt, solve, save the edit, and say what it holds."""
    path = check_plain(there(arguments.registry))
    tags, facts = Tags(load_secret(arguments.secret)), load_facts(arguments.facts)
    config = ClientConfig(arguments.policy, arguments.representation)
    lm = load_model(arguments.model)
    rules = Rules.of(lm)
    with Registry(path) as registry:
        channel = Channel(Server(registry), arguments.client)
        client = Client(channel, rules, tags, _unpublished, config)
        slots = sorted({slot for _, slot, _ in registry.counts()})
        client.edit(facts, slots[0] if slots else 0)
        for slot in slots:
            client.retrieve(slot)
    own, adopted = ([packet for _, packet in some.values()] for some in (client.own, client.adopted))
    packets = settled(own, adopted)
    edit = within_budget(lm, packets, second_moments(lm))
    print(f"{len(own)} own packets, {len(adopted)} adopted, {len(packets)} after conflicts")
    print(f"{edit.save(arguments.to)}: {edit!r}, lambda {edit.notes['lambda']}")
    return 0


def _unpublished(facts: Sequence[Fact]) -> list[PreparedFact]:
    """In place of a provider: nothing is computed here."""
    if facts:
        raise ValueError(f"{len(facts)} of these facts are in no packet of this registry: call `publish` before.")
    return []
