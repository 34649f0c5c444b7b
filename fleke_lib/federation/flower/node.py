"""A node: one member of a federation on its own machine. It gets turns and gives replies, and knows no network.

The node's folder is its memory. Each turn is kept there with its reply before the reply is sent; a node that was
stopped plays the kept turns again and has the state that it had. Vectors are kept there, too, so nothing is computed
twice, and so are the random draws, so packets are sealed to the same bytes. The folder holds keys and vectors of the
node's own facts: it belongs to its owner alone.

A node that missed turns catches up. In the next slot it publishes all of its facts that were due by then, and looks at
the offers of all slots that it has not seen.

When another member has withdrawn, the node drops all that it holds of it and begins again with slot 0. It finds its own
packets where they are, computes what it had reused from that member, and chooses again. `leave` makes a node withdraw
itself in the next turn; from then on it does nothing more.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from fleke_lib.edit.disturbance import within_budget
from fleke_lib.edit.moments import Moments, second_moments
from fleke_lib.edit.trajectories import check_shareable
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.client import Client, ClientConfig
from fleke_lib.federation.flower.bounds import load_rules, save_rules
from fleke_lib.federation.flower.outbox import TurnChannel
from fleke_lib.federation.flower.turns import SEALED, Turn, TurnReply
from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.provider import PreparedFact, Provider, StoredProvider
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.registry.budget import Budget
from fleke_lib.federation.registry.leverage import Leverage
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.keys import KEY, Group, Identity
from fleke_lib.federation.weights import settled
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.storage.files import half_made

KEPT = "fleke-node-1"
LEAVES = "withdraw"  # a file in the folder of a node that is to withdraw


@dataclass(frozen=True)
class NodeSettings:
    """What a node's owner decides.

    folder: the node's memory. slots: the facts that become due in slot 0, 1, ...; they never leave the node.
    group: the members' public keys, from a source other than the server. secret: the key of the tags.
    budget: what each other member may publish. With a budget, vectors' leverages are bounded, too, which C is needed
        for; without one only norms are.
    """

    folder: Path
    slots: tuple[tuple[Fact, ...], ...] = field(repr=False)
    identity: Identity
    group: Group
    secret: bytes = field(repr=False)
    config: ClientConfig
    budget: Budget | None = None

    def __post_init__(self) -> None:
        if self.group.members.get(self.identity.name) != self.identity.member:
            raise ValueError(
                f"the group has no {self.identity.name!r} with these keys: give the list of members with this node's "
                "public keys on it."
            )


def leave(folder: Path) -> Path:
    """Make the node with this folder withdraw all that it has published, in its next turn.

    Raises:
        ValueError: no node has kept anything there.
    """
    if not (folder / "rules.json").is_file():
        raise ValueError(f"{folder} is not the folder of a node: give the one that `node` was started with.")
    (folder / LEAVES).touch()
    return folder / LEAVES


class Node:
    """One member and its memory, in a federation with sealed packets; it refuses the turns of any other.

    Args:
        load: loads the base model, which is called when something must be computed.
        moments: C of the base model, for the edit at the end.
        provider: of MKVs and trajectories, from the model and a folder.

    Raises:
        ValueError: a fact cannot be shared, or the folder holds turns of another node.
    """

    plays: tuple[str, ...] = SEALED  # the turns that it takes part in

    def __init__(
        self,
        settings: NodeSettings,
        load: Callable[[], LanguageModel],
        moments: Callable[[LanguageModel], Moments] = second_moments,
        provider: Callable[[LanguageModel, Path], Provider] = StoredProvider,
    ) -> None:
        self.settings, self._load, self._moments, self._provider_of = settings, load, moments, provider
        self.folder = settings.folder
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.rules = self._rules()
        self._begin()

    def turn(self, data: bytes) -> bytes:
        """The reply to a turn, once the turn is safe in the folder. A turn that is repeated changes nothing.

        Raises:
            Refused: these bytes are no turn, or an earlier one that was left out then.
            ValueError: the server sent something that does not fit, or the model gave no usable numbers; the node is
                as it was before.
        """
        turn = Turn.read(data)
        if turn.what not in self.plays:
            raise Refused(f"turn {turn.what!r} is of another protection than this node's, which its owner decides.")
        if (reply := self._replies.get((turn.session, turn.number))) is not None:
            return reply
        latest = max((number for session, number in self._replies if session == turn.session), default=0)
        if turn.number < latest or (latest and turn.session != self._session[0]):
            raise Refused(f"turn {turn.number} is earlier than the last one here: the server has gone on without it.")
        try:
            reply = self._play(turn).data
            self._keep(data, reply)
        except BaseException:
            self._begin()
            raise
        self._replies[turn.session, turn.number] = reply
        return reply

    def packets(self) -> tuple[Packet, ...]:
        """The packets behind this node's edit: its own and adopted ones, with conflicts resolved."""
        own, adopted = ([packet for _, packet in some.values()] for some in (self.client.own, self.client.adopted))
        return settled(own, adopted)

    @property
    def edit_file(self) -> Path:
        """Where the turn "solve" writes this node's edit, which stays here."""
        return self.folder / "edit.safetensors"

    @cached_property
    def lm(self) -> LanguageModel:
        return self._load()

    @cached_property
    def _provider(self) -> Provider:
        return self._provider_of(self.lm, self.folder / "vectors")

    def _provide(self, facts: Sequence[Fact], *starts) -> list[PreparedFact]:
        return self._provider(facts, *starts) if facts else []

    def _begin(self) -> None:
        """The state at the beginning, and then every kept turn once more."""
        one, file = self.settings, self.folder / "draws.json"
        draws = Draws.load(file) if file.exists() else Draws()
        keys = {"identity": one.identity, "group": one.group, "rules": self.rules, "draws": draws}
        self.channel = TurnChannel(None, one.identity.name, **keys)
        self._anew()
        self._session: tuple[str, int] = ("", 0)
        self._known: set[int] = set()  # numbers of requests
        self.left = False
        self._waits = False  # for slot 0, after a withdrawal: what it does before would not be the control's
        self._replies: dict[tuple[str, int], bytes] = {}
        for path in sorted(self.folder.glob("*.turn")):
            about, data, reply = cut_apart(path.read_bytes())
            if about.decode() != f"{KEPT} {one.identity.name}":
                raise ValueError(f"{path} is a turn of another node ({about[:80]!r}): give each node its own folder.")
            turn = Turn.read(data)
            self._play(turn, TurnReply.read(reply))
            self._replies[turn.session, turn.number] = reply

    def _anew(self) -> None:
        """A client that holds nothing yet, over the channel as it is."""
        one = self.settings
        self.client = Client(self.channel, self.rules, Tags(one.secret), self._provide, one.config)
        self._retrieved: set[int] = set()

    def _keep(self, data: bytes, reply: bytes) -> None:
        self.channel.draws.save(self.folder / "draws.json")
        with half_made(self.folder / f"{len(self._replies):06d}.turn") as half:
            half.write_bytes(joined([f"{KEPT} {self.settings.identity.name}".encode(), data, reply]))

    def _play(self, turn: Turn, again: TurnReply | None = None) -> TurnReply:
        """Do what a turn says, and make the reply. again: the reply that was made before, so nothing is solved."""
        self._take(turn)
        leaves = "withdraw" in [kind for kind, _ in again.calls] if again else (self.folder / LEAVES).exists()
        self._waits &= (turn.what, turn.slot) != ("edit", 0)
        if self.left or leaves:
            self.channel.pass_over()
            if not self.left:
                self.channel.call("withdraw", b"")
        elif self._waits:
            pass
        elif turn.what == "edit" and self.settings.group.epoch in self.channel.keyring.keys:
            self.client.edit(self._due(turn.slot), turn.slot)
        elif turn.what == "retrieve":
            for slot in sorted({*range(turn.slot + 1)} - self._retrieved):
                self.client.retrieve(slot)
                self._retrieved.add(slot)
        elif turn.what == "solve" and not again and (packets := self.packets()):
            within_budget(self.lm, packets, self._moments(self.lm)).save(self.edit_file)
        return TurnReply(
            turn.session, turn.number, tuple(one.call for one in self.channel.sent_off), self.channel.first
        )

    def _take(self, turn: Turn) -> None:
        """Take the answers to the last reply and to what is asked first, and the group's key; deal it if need be."""
        (session, number), channel = self._session, self.channel
        if session == turn.session:
            lost = channel.settle(turn.answers) if number == turn.answered else channel.abandon()
            channel.forget(packets=lost)  # or it would find its own packet, which nobody else can
            for id in lost:  # their facts are due again
                self.client.own.pop(id, None), self.client.texts.pop(id, None)
        first = dict(zip([kind for kind, _ in channel.first], turn.first, strict=True))
        if refused := [answer.refused for answer in first.values() if answer.refused]:
            raise ValueError(f"the server refused what a node asks first: {refused[0]}")
        told = first.pop("withdrawn").data
        repeated = session != turn.session or number != turn.answered
        channel.arrive({kind: answer.data for kind, answer in first.items()}, repeated)
        self._session = turn.session, turn.number
        channel.join()
        self._leave_out(told)
        group = self.settings.group
        if group.dealer == self.client.name and group.epoch not in channel.keyring.keys:
            channel.deal(channel.draws(KEY, "epoch", str(group.epoch)), group.members)

    def _leave_out(self, told: bytes) -> None:
        """Begin again without what was withdrawn. told: all requests that are pending.

        Raises:
            ValueError: own packets may have been optimised from withdrawn ones.
        """
        new = {number: name for number, name in _requests(told) if number not in self._known}
        self._known |= set(new)
        self.left |= self.client.name in new.values()
        if not new or self.left:
            return
        if self.settings.config.warm or self.settings.config.map:
            raise ValueError("a member has withdrawn, and packets here may have been optimised from its packets.")
        self.channel.forget(clients=set(new.values()))
        if "" in new.values():  # single packets, which only the server knows
            self.channel.fetch_again()
        self._anew()
        self._waits = True

    def _due(self, slot: int) -> list[Fact]:
        """The facts that are due by a slot and that this node holds no packet of."""
        held = set(self.client.texts.values())
        return [fact for facts in self.settings.slots[: slot + 1] for fact in facts if fact not in held]

    def _rules(self) -> Rules:
        """What this node admits; from the model at the first start, when all facts are checked, too."""
        file = self.folder / "rules.json"
        if not file.exists():
            check_shareable(self.lm, [fact for facts in self.settings.slots for fact in facts])
            save_rules(Rules.of(self.lm), file)
        rules, budget = load_rules(file), self.settings.budget
        if budget is None:
            return rules
        return replace(rules, leverage=Leverage.of(self._moments(self.lm), rules.layers), budget=budget)


def _requests(told: bytes) -> list[tuple[int, str]]:
    """Numbers and clients of withdrawals. Raises ValueError if the bytes are something else."""
    try:
        found = [(number, name) for number, name in json.loads(told or b"[]")]
    except (RecursionError, TypeError, ValueError):
        found = [("", "")]
    if not all(type(number) is int and type(name) is str for number, name in found):
        raise ValueError(f"these {len(told)} bytes are not a list of withdrawals: adopt nothing from this server.")
    return found
