"""Conflicts: packets that cannot both be written, because they want two things at one place.

Two packets with equal question tags and different answer tags are a conflict. Tags are what a publisher says, so that
only packets with near keys count as of one question. A packet can also carry almost another packet's key under a
question tag of its own, and ask there for the opposite: `near_equal` finds such pairs. A rule decides: it gets the
client's own packets for the question and the adopted ones, and returns the packets that stay.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from fleke_lib.federation.packets.packet import Packet

ConflictRule = Callable[[Sequence[Packet], Sequence[Packet]], Sequence[Packet]]
Question = tuple[str, int]  # a tag, and the number of a group of near keys under it
Sides = tuple[list[Packet], list[Packet]]  # a client's own packets and adopted ones
# Keys with a greater cosine are near; one share undoes another if it takes away more than this part of it. Among 111
# atlas and 40 CounterFact facts that report nothing, no two keys with a cosine above 0.42 have shares that undo a fifth
# of each other, at any edited layer; on a tiny model with random weights one pair at 0.92 has. The 40 are 20 pairs with
# the same subject and key (cosine 1.0 at the first layer), and none of their shares undoes more than 0.06. Two packets
# of one fact have a cosine of 0.98 or more, also with 4 bits.
NEAR, UNDONE = 0.95, 0.2
TOGETHER = 1024  # keys that are compared with all others at once


def resolve(own: Sequence[Packet], adopted: Sequence[Packet], rule: ConflictRule) -> tuple[Packet, ...]:
    """The packets that stay: one per question without conflict; for the other questions those that `rule` returns.

    Packets with one question tag and keys that are not near are of different questions: somebody has used a tag for
    other vectors, and must not displace the packets that it belongs to. Questions with a `near_equal` pair count as one
    question, unless both packets are the client's own. Only one packet of each answer stays, since two would count
    twice.
    """
    questions: dict[Question, Sides] = {}
    names: dict[str, Question] = {}
    for side, packets in enumerate((own, adopted)):
        for packet in packets:
            name = names[packet.id] = _question(packet, questions)
            questions.setdefault(name, ([], []))[side].append(packet)
    ids = {packet.id for packet in own}
    pairs = [(names[a.id], names[b.id]) for a, b in near_equal([*own, *adopted]) if not {a.id, b.id} <= ids]
    kept: list[Packet] = []
    for mine, theirs in _joined(questions, pairs):
        answers = {(packet.question, packet.answer) for packet in (*mine, *theirs)}
        kept += _one_each((*mine, *theirs) if len(answers) == 1 else rule(mine, theirs))
    return tuple(kept)


def _question(packet: Packet, questions: Mapping[Question, Sides]) -> Question:
    """The packet's question tag, with the number of the first group of near keys that has this tag, or a new one."""
    first, number = packet.layers[0], 0
    while there := questions.get((packet.question, number)):
        other = (there[0] or there[1])[0]
        if cosine_similarity(packet.means[first], other.means[first], dim=0) > NEAR:
            break
        number += 1
    return packet.question, number


def near_equal(packets: Sequence[Packet]) -> list[tuple[Packet, Packet]]:
    """The pairs with different question tags of which one takes away what the other asks for, at almost the same key.

    A regression gives two shares at one key their mean: half of each, plus or minus half of the other's part along it.
    Shares that only differ are no conflict, since two facts about one subject have the same key where their questions
    begin with it. Every layer is compared, and z - h with the first layer's keys.
    """
    if len({packet.question for packet in packets}) < 2:
        return []
    layers = packets[0].layers
    wishes = [(layer, [packet.shares[layer] for packet in packets]) for layer in layers]
    wishes.append((layers[0], [packet.residual for packet in packets]))
    found = {pair for layer, asked in wishes for pair in _cancelling([one.means[layer] for one in packets], asked)}
    return [(packets[i], packets[j]) for i, j in sorted(found) if i < j and packets[i].question != packets[j].question]


def _cancelling(keys: Sequence[Tensor], shares: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
    """Index pairs of near keys whose shares' product is less than -`UNDONE` times the smaller one's square."""
    keys, shares = normalize(torch.stack([*keys]), dim=1), torch.stack([*shares])
    squares = shares.square().sum(1)
    for start in range(0, len(keys), TOGETHER):
        here = slice(start, start + TOGETHER)
        least = torch.minimum(squares[here, None], squares[None])
        hit = (keys[here] @ keys.T > NEAR) & (shares[here] @ shares.T < -UNDONE * least)
        yield from ((start + i, j) for i, j in hit.nonzero().tolist())


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


def _joined(questions: dict[Question, Sides], pairs: Iterable[tuple[Question, Question]]) -> list[Sides]:
    """The questions' packets in their order; the questions of each pair together, where the first of them was."""
    groups = {question: [question] for question in questions}
    for one, other in pairs:
        into, gone = groups[one], groups[other]
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
