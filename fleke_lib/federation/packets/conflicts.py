"""Conflicts: packets that answer one question differently. Their tags alone show it.

Two packets with equal question tags and different answer tags cannot both be written. A rule decides: it gets the
client's own packets for that question and the adopted ones, and returns the packets that stay.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from fleke_lib.federation.packets.packet import Packet

ConflictRule = Callable[[Sequence[Packet], Sequence[Packet]], Sequence[Packet]]


def resolve(own: Sequence[Packet], adopted: Sequence[Packet], rule: ConflictRule) -> tuple[Packet, ...]:
    """The packets that stay: one per question without conflict; for the other questions those that `rule` returns.

    Only one packet of each answer stays, since two would count twice.
    """
    questions: dict[str, tuple[list[Packet], list[Packet]]] = {}
    for side, packets in enumerate((own, adopted)):
        for packet in packets:
            questions.setdefault(packet.question, ([], []))[side].append(packet)
    kept: list[Packet] = []
    for mine, theirs in questions.values():
        answers = {packet.answer for packet in (*mine, *theirs)}
        kept += _one_each((*mine, *theirs) if len(answers) == 1 else rule(mine, theirs))
    return tuple(kept)


def own_wins(own: Sequence[Packet], adopted: Sequence[Packet]) -> Sequence[Packet]:
    """The client's own answer; between others' answers, the newest."""
    return own[-1:] or newest((), adopted)


def newest(own: Sequence[Packet], adopted: Sequence[Packet]) -> Sequence[Packet]:
    """The answer that was published last; within one slot, the one with the greatest tag."""
    return [max((*own, *adopted), key=lambda packet: (packet.slot, packet.content))]


def majority(own: Sequence[Packet], adopted: Sequence[Packet]) -> Sequence[Packet]:
    """The answer that most clients have published, or none in a tie. A client that reused a packet has no vote."""
    everyone = (*own, *adopted)
    votes = Counter(answer for _, answer in {(packet.client, packet.answer) for packet in everyone})
    (first, most), *rest = votes.most_common(2)
    return [] if rest and rest[0][1] == most else [packet for packet in everyone if packet.answer == first]


def abstain(own: Sequence[Packet], adopted: Sequence[Packet]) -> Sequence[Packet]:
    """No answer: the base model's answer stays."""
    return []


def _one_each(packets: Sequence[Packet]) -> list[Packet]:
    """One packet for each answer, since two would count twice: the oldest; in one slot, that of the least content."""
    found: dict[str, Packet] = {}
    for packet in sorted(packets, key=lambda packet: (packet.slot, packet.content, packet.id)):
        found.setdefault(packet.answer, packet)
    return list(found.values())
