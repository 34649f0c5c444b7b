"""A node of a federation that adds up sums: its packets stay here, and what it sends is masked.

It has the members' rules from its owner, not from the server, and refuses every turn of a federation with sealed
packets. Nothing of a session is written to its folder, which has only vectors and the edit: a node that was stopped is
out of the session, and takes part in the next one with all of its facts. Once its owner has withdrawn it, by
`node.leave`, it takes part in none.
"""

from collections.abc import Callable
from pathlib import Path

from fleke_lib.edit.closed_form import check_contributions, coupling_of
from fleke_lib.edit.moments import Moments, second_moments
from fleke_lib.federation.flower.bounds import BOUNDS, SumRules, agreement
from fleke_lib.federation.flower.node import LEAVES, Node, NodeSettings
from fleke_lib.federation.flower.sums import SummingMember
from fleke_lib.federation.flower.turns import SUMMED, TOLD, Turn, TurnReply
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.provider import Provider, StoredProvider
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.summed import Solving, Summand
from fleke_lib.federation.summing import AtHome
from fleke_lib.model.language_model import LanguageModel


class SummingNode(Node):
    """One member and its memory.

    Args:
        rules, summed: what all members have agreed on.

    Raises:
        ValueError: a fact cannot be shared, or the rules are of another model than this node's.
    """

    plays = SUMMED

    def __init__(
        self,
        settings: NodeSettings,
        rules: Rules,
        summed: SumRules,
        load: Callable[[], LanguageModel],
        moments: Callable[[LanguageModel], Moments] = second_moments,
        provider: Callable[[LanguageModel, Path], Provider] = StoredProvider,
    ) -> None:
        self._summed, self._agreed = summed, agreement(rules, summed, settings.group)
        super().__init__(settings, load, moments, provider)
        if any(getattr(self.rules, name) != getattr(rules, name) for name in BOUNDS):
            raise ValueError("the rules are of another model than this node's: give all members the same rules.")

    def packets(self) -> tuple[Packet, ...]:
        """This node's own packets, in the order of `Run.own`."""
        own = sorted(self.client.own.values(), key=lambda one: (one[0], one[1].content, one[1].id))
        return tuple(packet for _, packet in own)

    def _begin(self) -> None:
        self.channel = AtHome(self.settings.identity.name, self.rules)
        self._anew()
        self._session, self._replies, self._edited = ("", 0), {}, 0
        self._member: SummingMember | None = None
        self._next: list[str] = []

    def _keep(self, data: bytes, reply: bytes) -> None:
        self._replies.clear()  # a reply has 17 MB on the default model

    def _play(self, turn: Turn, again: TurnReply | None = None) -> TurnReply:
        """Take part in a turn, or withdraw.

        Raises:
            ValueError: this node is not in the session, or what was told does not fit; it is out of the session then.
        """
        self._session = turn.session, turn.number
        refused = [answer.refused for answer in turn.answers if answer.refused]
        if refused and turn.what != "advertise":  # those of an earlier session do not matter
            raise Refused(f"the server refused what this node has sent: {refused[0]}")
        if (self.folder / LEAVES).exists():
            self._member = None
            return TurnReply(turn.session, turn.number, (("withdraw", b""),), TOLD)
        told = turn.first[0].data if turn.first else b""
        if turn.what == "advertise":
            self._member = self._joins(told.decode(), turn.slot)
            self._next = [*self._member.order]
            body = self._member.advertise()
        elif self._member is None or not self._next or self._next.pop(0) != turn.what:
            raise Refused(f"this node is not at the turn {turn.what!r} of a session: it takes part in the next one.")
        else:
            body = getattr(self._member, turn.what)(told)
        if turn.what == "learn":
            self._member.edit.save(self.edit_file)
            self._member = None
        return TurnReply(turn.session, turn.number, ((turn.what, body),) if body else (), TOLD)

    def _joins(self, session: str, slot: int) -> SummingMember:
        """Make the packets that are due by a slot, and begin a session with them."""
        if not session.startswith(f"{self._agreed}-"):
            raise Refused("the server has other rules or another list of members than this node: compare the files.")
        for due in range(self._edited, slot + 1):
            self.client.edit(self.settings.slots[due] if due < len(self.settings.slots) else (), due)
        self._edited = max(self._edited, slot + 1)
        own, moments = self.packets(), self._moments(self.lm)
        if own:
            check_contributions(own, moments)
        solving = Solving(moments, self._summed.scales, self._summed.lam, self.rules.d_model)
        summand = Summand.of(own, coupling_of(own, None))
        one = self.settings
        return SummingMember(session, one.identity, one.group, summand, solving, self.rules.fingerprint)
