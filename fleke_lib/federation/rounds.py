"""A federation over time: in every slot all clients edit and publish, then all retrieve and adopt.

The result of a run is its ledger and its packets. `federation.weights` computes each client's weights from them. No
model is edited here, because MKVs and trajectories are computed on the base model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm.auto import tqdm

from fleke_lib.edit.trajectories import check_shareable
from fleke_lib.facts.fact import Fact, normal_form
from fleke_lib.federation.client import Client, ClientConfig
from fleke_lib.federation.ledger import Event, Ledger
from fleke_lib.federation.packets.messages import Tap
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.partitioning import Part
from fleke_lib.federation.protection import Plain, Protection
from fleke_lib.federation.provider import Provider, VectorProvider
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.retrieval.policies import Policy
from fleke_lib.federation.retrieval.precision import Retrieval
from fleke_lib.federation.reuse import Doubts
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import Hparams


@dataclass(frozen=True, eq=False)
class RunConfig:
    """Everything that a federation runs with except its parts: enough to run it again with other parts.

    clients: each client's configuration, by pseudonym.
    provider: of MKVs and trajectories.
    secret: the key of the tags.
    rules: what the registry and the clients admit.
    protection: who can read the packets.
    """

    lm: LanguageModel
    clients: Mapping[str, ClientConfig]
    provider: Provider
    secret: bytes = field(repr=False)
    rules: Rules | None = None
    protection: Protection = field(default_factory=Plain)


@dataclass(frozen=True, eq=False)
class Run:
    """The result of a federation's run.

    parts: the facts of each client. packets: by id.
    texts: by client and packet id, the client's own facts; never sent.
    config: everything else that it ran with.
    refusals: by client and packet id, why the client refused what it had opened, one sentence each.
    """

    ledger: Ledger
    parts: tuple[Part, ...]
    packets: Mapping[str, Packet] = field(repr=False)
    texts: Mapping[str, Mapping[str, Fact]] = field(repr=False)
    config: RunConfig = field(repr=False)
    refusals: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    @property
    def clients(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    @property
    def slots(self) -> int:
        return max(len(part.slots) for part in self.parts)

    def again(
        self,
        parts: Sequence[Part] | None = None,
        provider: Provider | None = None,
        protection: Protection | None = None,
    ) -> "Run":
        """Run the federation again, with other parts, provider or protection and everything else unchanged."""
        old, provider = self.config, provider or self.config.provider
        inside = {"secret": old.secret, "rules": old.rules, "protection": protection or old.protection}
        return run_fedit(old.lm, parts or self.parts, old.clients, provider=provider, **inside)

    def own(self, client: str, until: int | None = None) -> tuple[Packet, ...]:
        """The packets of a client's own facts, published or reused, in the order of slot and `Packet.content`."""
        return self._packets(client, until, "published", "reused")

    def adopted(self, client: str, until: int | None = None) -> tuple[Packet, ...]:
        """The packets that a client has adopted and that are not its own, in the order of slot and `Packet.content`.

        An adopted packet that the client refuses later is not one of them any more.
        """
        out = {packet.id for packet in self.own(client, until)}
        out |= {event.packet for event in self.ledger.select("refused", client=client, until=until)}
        return tuple(packet for packet in self._packets(client, until, "adopted") if packet.id not in out)

    def fact(self, packet: str) -> Fact:
        """The fact of a packet. An experiment may look it up; in a real federation only the owner knows it."""
        for texts in self.texts.values():
            if packet in texts:
                return texts[packet]
        raise ValueError(f"no client of this run has the fact of packet {packet[:12]!r}: give an id of run.packets.")

    def retrieval(self, client: str) -> Retrieval:
        """Compare what a client adopted with what was relevant to it, among all packets of others."""
        (part,) = (part for part in self.parts if part.name == client)
        own = {packet.id for packet in self.own(client)}
        adopted = {packet.id for packet in self.adopted(client)}
        answers = {_answer(fact) for fact in part.relevant}
        others = {name for name in self.packets if name not in own}
        relevant = {name for name in others if _answer(self.fact(name)) in answers}
        return Retrieval(len(adopted), len(relevant), len(adopted & relevant), len(others))

    def _packets(self, client: str, until: int | None, *kinds: str) -> tuple[Packet, ...]:
        found = {event.packet: event.slot for event in reversed(self.ledger.select(*kinds, client=client, until=until))}
        packets = [(slot, self.packets[name]) for name, slot in found.items()]
        return tuple(p for _, p in sorted(packets, key=lambda one: (one[0], one[1].content, one[1].id)))

    def __repr__(self) -> str:
        return f"Run({len(self.parts)} clients, {self.slots} slots, {len(self.packets)} packets; {self.ledger!r})"


def _answer(fact: Fact) -> tuple[str, str]:
    """The question and the answer, to compare."""
    return normal_form(fact.question), normal_form(fact.target_new)


def run_fedit(
    lm: LanguageModel,
    parts: Sequence[Part],
    policy: Policy | ClientConfig | Mapping[str, ClientConfig],
    *,
    provider: Provider | None = None,
    hparams: Hparams | None = None,
    path: Path | None = None,
    secret: bytes,
    rules: Rules | None = None,
    tap: Tap | None = None,
    protection: Protection | None = None,
) -> Run:
    """FedEdit: clients edit, publish, retrieve and adopt, slot after slot.

    Args:
        policy: the policy or the `ClientConfig` of all clients, or a `ClientConfig` for each client by name.
        provider: of MKVs and trajectories; share one `VectorProvider` between runs to compute each fact only once. The
            default one computes each fact by itself, so that equal facts give equal packets, bit for bit. One with a
            method `check(facts)` decides itself which facts it takes; otherwise they must be `shareable`.
        hparams: MEMIT's hyperparameters for the MKVs, with the layers of the model's preset; the preset's by default.
        path: a new file for the registry; a temporary one by default.
        secret: key of the tags; the clients share it, the server does not know it. Draw it with
            `secrets.token_bytes(32)`. Runs with the same secret give the same bits.
        rules: what is admitted; `Rules.of(lm)` by default. Give `Rules.of(lm, moments=C, budget=...)` where clients may
            lie: without moments only norms are bounded.
        tap: called with every message: kind, bytes sent, bytes received.
        protection: who can read the packets; `Plain()` by default, and `Sealing()` if the server must not.

    Raises:
        ValueError: a client has no configuration, a fact is not `shareable`, the registry's file is not new,
            `hparams` has other layers than the preset, or it comes together with a provider. These are checked before
            anything is computed.

    Source: FedEdit as the FLEKE paper describes it, with trajectories in place of text.
    """
    if provider and hparams:
        raise ValueError("provider and hparams are given: give one of them, since a provider has its own.")
    provider, protection = provider or VectorProvider(lm, hparams=hparams), protection or Plain()
    configs = policy if isinstance(policy, Mapping) else {part.name: _config_of(policy) for part in parts}
    if missing := {part.name for part in parts} - set(configs):
        raise ValueError(f"there is no configuration for {min(missing)!r}: give each client's, or one for all.")
    check = getattr(provider, "check", partial(check_shareable, lm))
    check([fact for part in parts for fact in part.facts])
    rules, names = rules or Rules.of(lm), [part.name for part in parts]
    with (
        TemporaryDirectory() as folder,
        protection.connect(path or Path(folder) / "registry.db", rules, names, tap) as connected,
    ):
        doubts = Doubts(lm, provider)
        clients = [
            Client(connected.clients[name], rules, Tags(secret), provider, configs[name], doubt=doubts)
            for name in names
        ]
        ledger = Ledger(tuple(_joined(client) for client in clients if client.channel.received))
        for slot in tqdm(range(max(len(part.slots) for part in parts)), desc="slots", leave=False):
            connected.begin(slot)
            for part, client in zip(parts, clients, strict=True):
                ledger = ledger.plus(client.edit(part.slots[slot] if slot < len(part.slots) else (), slot))
            for client in clients:
                ledger = ledger.plus(client.retrieve(slot))
    packets = {
        name: packet
        for client in clients
        for name, (_, packet) in (client.own | client.adopted | client.dropped).items()
    }
    texts = {client.name: dict(client.texts) for client in clients}
    config = RunConfig(lm, configs, provider, secret, rules, protection)
    return Run(ledger, tuple(parts), packets, texts, config, {client.name: client.refused for client in clients})


def _joined(client: Client) -> Event:
    """What a client has sent and received before the first slot."""
    return Event("joined", 0, client.name, sent=client.channel.sent, received=client.channel.received)


def _config_of(policy: Policy | ClientConfig) -> ClientConfig:
    return policy if isinstance(policy, ClientConfig) else ClientConfig(policy)
