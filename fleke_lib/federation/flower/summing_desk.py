"""The desk of a federation that adds up sums: one session of masked rounds, after which every node has the same edit.

A member that has not replied to a turn when the patience is over is out of the session. One that was out before it sent
its masked numbers of a round is not in this total, and the others' shares remove its masks. The totals before contain
its facts. With the next call it takes part again.

Members that have withdrawn say so in their first turn, and the session goes on without them. If one says so later, the
session ends there, and another one begins without it.
"""

from dataclasses import dataclass, field

from fleke_lib.federation.flower.desk import TurnDesk
from fleke_lib.federation.flower.sums_server import SummingServer
from fleke_lib.federation.flower.turns import TOLD, Call


@dataclass
class SummingDesk(TurnDesk):
    """The turns of one federation that adds up sums."""

    server: SummingServer
    _told: set[str] = field(default_factory=set, repr=False)  # of whose withdrawals a line was written

    def run(self, slots: int) -> tuple[str, ...]:
        """The total of all facts that are due by the last of these slots, and the edit from it at every node.

        Returns the members that have the edit or have withdrawn.

        Raises:
            ValueError: too few members are left, or a member has sent something that does not fit.
        """
        first_turn = self.gather
        while True:
            self.server.begin(f"{self.session}-{len(self._told)}")
            done, first_turn = first_turn("advertise", slots - 1), self.turn
            gone = self._say_who_left()
            while self.server.phase != "learn" and gone == self.server.left:
                self.server.go_on()
                done = self.turn(self.server.phase, slots - 1)
            if gone == self._say_who_left():
                return tuple(sorted({*done, *gone}))

    def _say_who_left(self) -> frozenset[str]:
        for name in sorted(self.server.left - self._told):
            self.progress(f"{name} withdrawn: the total is without it")
        self._told |= self.server.left
        return frozenset(self._told)

    @property
    def called(self) -> frozenset[str]:
        return self.server.here

    @property
    def state(self) -> str:
        if self.server.phase in ("masked", "reveal"):
            return f"{self.server.step.what} of layer {self.server.step.layer}"
        return f"{len(self.server.here)} taking part"

    def opening(self, name: str) -> tuple[Call, ...]:
        return TOLD
