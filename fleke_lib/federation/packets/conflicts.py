"""Conflicts: packets that cannot both be written, because they want two things at one place.

Two packets with equal question tags and different answer tags are a conflict; the tags alone show it. A packet can also
carry another packet's key under a question tag of its own, and ask for another share there: `near_equal` finds such
pairs. A rule decides: it gets the client's own packets for the question and the adopted ones, and returns the packets
that stay.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from torch.nn.functional import cosine_similarity, normalize

from fleke_lib.federation.packets.packet import Packet

ConflictRule = Callable[[Sequence[Packet], Sequence[Packet]], Sequence[Packet]]
Sides = tuple[list[Packet], list[Packet]]  # a client's own packets and adopted ones
NEAR = 0.995  # cosine of two mean keys at the first edited layer
SAME = 0.9  # cosine of two shares there, from which on they ask for the same
TOGETHER = 1024  # keys that are compared with all others at once


def resolve(own: Sequence[Packet], adopted: Sequence[Packet], rule: ConflictRule) -> tuple[Packet, ...]:
    """The packets that stay: one per question without conflict; for the other questions those that `rule` returns.

    Questions with a `near_equal` pair count as one question, unless both packets are the client's own. Only one packet
    of each answer stays, since two would count twice.
    """
    questions: dict[str, Sides] = {}
    for side, packets in enumerate((own, adopted)):
        for packet in packets:
            questions.setdefault(packet.question, ([], []))[side].append(packet)
    ids = {packet.id for packet in own}
    pairs = [(a, b) for a, b in near_equal([*own, *adopted]) if not {a.id, b.id} <= ids]
    kept: list[Packet] = []
    for mine, theirs in _joined(questions, pairs):
        answers = {packet.answer for packet in (*mine, *theirs)}
        kept += _one_each((*mine, *theirs) if len(answers) == 1 else rule(mine, theirs))
    return tuple(kept)


def near_equal(packets: Sequence[Packet]) -> list[tuple[Packet, Packet]]:
    """The pairs with different question tags that ask for different shares at almost the same key.

    Keys are compared by their cosine at the first edited layer, where no share has moved them, and shares there, too. A
    regression cannot give one key two shares; it gives both less than they want.
    """
    if len({packet.question for packet in packets}) < 2:
        return []
    first = packets[0].layers[0]
    keys = normalize(torch.stack([packet.means[first] for packet in packets]), dim=1)
    shares = torch.stack([packet.shares[first] for packet in packets])
    found = []
    for start in range(0, len(keys), TOGETHER):
        near = keys[start : start + TOGETHER] @ keys.T > NEAR
        for i, j in near.nonzero().tolist():
            i += start
            apart = packets[i].question != packets[j].question and cosine_similarity(shares[i], shares[j], dim=0) < SAME
            if i < j and apart:
                found.append((packets[i], packets[j]))
    return found


def own_wins(own: Sequence[Packet], adopted: Sequence[Packet]) -> Sequence[Packet]:
    """The client's own answer, the last to each question; between others' answers, the newest.

    Between others' answers under several question tags the oldest stays, because a packet that carries a copied key
    under another tag must not displace the one that it was copied from.
    """
    if own:
        return [*{packet.question: packet for packet in own}.values()]
    return newest((), adopted) if len({packet.question for packet in adopted}) == 1 else oldest((), adopted)


def newest(own: Sequence[Packet], adopted: Sequence[Packet]) -> Sequence[Packet]:
    """The answer that was published last; within one slot, the one with the greatest tag."""
    return [max((*own, *adopted), key=lambda packet: (packet.slot, packet.content))]


def oldest(own: Sequence[Packet], adopted: Sequence[Packet]) -> Sequence[Packet]:
    """The answer that was published first; within one slot, the one with the least tag."""
    return [min((*own, *adopted), key=lambda packet: (packet.slot, packet.content))]


def majority(own: Sequence[Packet], adopted: Sequence[Packet]) -> Sequence[Packet]:
    """The answer that most clients have published, or none in a tie. A client that reused a packet has no vote."""
    everyone = (*own, *adopted)
    votes = Counter(answer for _, answer in {(packet.client, packet.answer) for packet in everyone})
    (first, most), *rest = votes.most_common(2)
    return [] if rest and rest[0][1] == most else [packet for packet in everyone if packet.answer == first]


def abstain(own: Sequence[Packet], adopted: Sequence[Packet]) -> Sequence[Packet]:
    """No answer: the base model's answer stays."""
    return []


def _joined(questions: dict[str, Sides], pairs: Iterable[tuple[Packet, Packet]]) -> list[Sides]:
    """The questions' packets in their order; the questions of each pair together, where the first of them was."""
    groups = {question: [question] for question in questions}
    for one, other in pairs:
        into, gone = groups[one.question], groups[other.question]
        if into is not gone:
            into += gone
            groups |= dict.fromkeys(gone, into)
    joined = {id(group): group for group in groups.values()}.values()
    return [
        ([p for name in group for p in questions[name][0]], [p for name in group for p in questions[name][1]])
        for group in joined
    ]


def _one_each(packets: Sequence[Packet]) -> list[Packet]:
    """One packet for each answer, since two would count twice: the oldest; in one slot, that of the least content."""
    found: dict[str, Packet] = {}
    for packet in sorted(packets, key=lambda packet: (packet.slot, packet.content, packet.id)):
        found.setdefault(packet.answer, packet)
    return list(found.values())
