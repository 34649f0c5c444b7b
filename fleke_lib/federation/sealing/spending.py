"""Spending: what one receiver has counted of each other member's sealed packets, against their budgets.

A blind server can count packets and cannot weigh them. Each receiver therefore counts the packets that others have
offered to it, and weighs those that it opens, by the rules and with the sentences of a registry
(`federation.registry.budget`). Receivers that open different packets can refuse different ones.
"""

from dataclasses import dataclass, field

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.registry.budget import overdraft
from fleke_lib.federation.sealing.sealed import Card

Spent = tuple[int, float]  # a number of packets and their weight


@dataclass
class Spending:
    """Packets and weights by client, and by client and slot."""

    rules: Rules
    _weights: dict[str, float] = field(default_factory=dict, repr=False)  # by sealed id; 0 until the packet is opened
    _totals: dict[tuple, Spent] = field(default_factory=dict, repr=False)

    def count(self, card: Card, id: str) -> None:
        """Charge a packet that was offered; `id` is the packet's own.

        Raises:
            Refused: it overdraws its client's budget; then nothing is charged.
        """
        if card.id not in self._weights:
            self._charge(card, id, 0.0)

    def weigh(self, card: Card, packet: Packet) -> None:
        """Charge the weight of a packet that was opened. Errors as for `count`."""
        if self.rules.leverage and self.rules.budget.weighs and not self._weights.get(card.id):
            self.drop(card)
            self._charge(card, packet.id, self.rules.leverage.weight(packet))

    def drop(self, card: Card) -> None:
        """Take back what was charged for a packet, which was withdrawn."""
        if card.id in self._weights:
            self._add(card, -1, -self._weights.pop(card.id))

    def _charge(self, card: Card, id: str, weight: float) -> None:
        client, slot = card.head.client, card.head.slot
        self._weights[card.id] = weight
        self._add(card, 1, weight)
        if found := self.rules.budget.overdrawn(slot, self._totals[client, slot], self._totals[(client,)]):
            self.drop(card)
            raise Refused(overdraft(id, client, found))

    def _add(self, card: Card, number: int, weight: float) -> None:
        for key in ((card.head.client,), (card.head.client, card.head.slot)):
            before = self._totals.get(key, (0, 0.0))
            self._totals[key] = (before[0] + number, before[1] + weight)
