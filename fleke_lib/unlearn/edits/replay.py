"""Does the ledger after a withdrawal replay, and does the registry agree with it?

Unlike the comparison of weights, this needs no federation that the client never joined.
"""

from collections.abc import Sequence
from pathlib import Path

from fleke_lib.federation.ledger import Event
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.rounds import Run
from fleke_lib.unlearn.edits.certificate import Check

NAME = "ledger and registry replay without the withdrawn packets"


def replay_check(run: Run, packets: Sequence[Packet], registry: str | Path | None = None) -> Check:
    """Run the federation again from its parts, and compare its ledger, packets and registry with what is claimed.

    The check holds if all of this is true: the replay gives the same events and packets; neither names a withdrawn
    packet; the registry stores no packet that the replay lacks, and none of its requests is pending. Packets that the
    replay has and the registry lacks are only counted: their owners have still to send them.

    Args:
        run: as it is after the withdrawal.
        packets: the withdrawn ones.
        registry: the file of the registry, if there is one.
    """
    again, gone = run.again(), {packet.id for packet in packets}
    events = [event for event in run.ledger if event.kind not in ("summed", "withdrawn")]  # neither is of a slot
    named = sum(not gone.isdisjoint((event.packet, *event.of)) for event in run.ledger) + len(gone & set(run.packets))
    figures = {
        "events": len(events),
        "events that differ": _differing(events, list(again.ledger)),
        "packets that differ": len(set(run.packets) ^ set(again.packets)),
        "withdrawn packets named": named,
    }
    reported = {}
    if registry is not None:
        with Registry(registry) as stored:
            ids = set(stored.vectors().ids)
            figures["pending requests"] = len(stored.pending())
        figures["stored packets not in the replay"] = len(ids - set(again.packets))
        reported["packets still to be stored"] = len(set(again.packets) - ids)
    return Check(NAME, not any(value for name, value in figures.items() if name != "events"), figures | reported)


def _differing(one: Sequence[Event], other: Sequence[Event]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))
