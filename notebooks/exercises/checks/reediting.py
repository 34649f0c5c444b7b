"""Checks of the exercises on chapter 05."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from checks.algebra import dice, least_squares, moment, normal
from checks.verdict import EXACT, Largest, Right, ask, expect, judge, near
from fleke_lib.federation import conflicts


class Packet(NamedTuple):
    """What a client holds about one fact: a tag of its answer, a key `(d_mlp,)` and a share `(d_model,)`."""

    answer: str
    key: Tensor
    share: Tensor


@dataclass(frozen=True)
class Claim:
    """What a packet shows without its vectors: client, slot, and the tags of question and answer."""

    id: str
    client: str
    slot: int
    question: str
    answer: str
    layers: ClassVar = (0,)
    means: ClassVar = {0: torch.ones(1)}  # packets with one question tag have one key here

    @property
    def content(self) -> tuple[str, str]:
        """What the library orders packets by, without the vectors."""
        return self.question, self.answer


def check_fedavg(fedavg: Callable) -> Right:
    """Compare with the mean of the products, which the reader's function may not form."""
    facts, (lefts, rights) = (1, 3, 4), _clients((2, 2, 2))
    shares = [count / sum(facts) for count in facts]
    products = [left @ right for left, right in zip(lefts, rights, strict=True)]
    factors = _weighed(lefts, shares) @ _weighed(rights, shares)
    mistakes = {
        "the factors are averaged: that mixes each client's `left` with every other client's `right`.": factors,
        "every client weighs the same: one with more facts has a greater share.": _weighed(products, [1 / 3] * 3),
        "a client's share enters its product twice, once in each factor.": _weighed(products, [s**2 for s in shares]),
        "the weights are the numbers of facts: divide them so that they add up to 1.": _weighed(products, facts),
        "this is the sum of the clients' edits.": _weighed(products, [1.0] * 3),
    }
    otherwise = "left @ right is not the mean of the clients' edits, weighted by their numbers of facts."
    judge("left @ right", _product(fedavg, lefts, rights, facts), _weighed(products, shares), mistakes, otherwise)
    lefts, rights = _clients((1, 3))
    mean = _weighed([lefts[0] @ rights[0], lefts[1] @ rights[1]], [0.5, 0.5])
    expect(
        near(_product(fedavg, lefts, rights, (7, 7)), mean),
        "for edits of different ranks left @ right is not their mean.",
    )
    return Right("the mean of three edits of rank 2 has rank 6, and no full dW was formed.")


def _product(
    fedavg: Callable, lefts: Sequence[Tensor], rights: Sequence[Tensor], facts: Sequence[int]
) -> Float[Tensor, "d_model d_mlp"]:
    """The product of the factors that the reader's function returns; it may not form a tensor larger than `rights`."""
    with Largest() as largest:
        left, right = ask(fedavg, lefts, rights, facts)
    most = sum(factor.numel() for factor in rights)
    expect(
        largest.numbers <= most,
        f"a tensor of {largest.numbers} numbers is formed: no tensor may be larger than all `rights`, {most}.",
    )
    expect(left.shape[1] == right.shape[0], f"{tuple(left.shape)} and {tuple(right.shape)} cannot be multiplied.")
    return left @ right


def _clients(ranks: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    lefts = [normal(40, rank, seed=i) for i, rank in enumerate(ranks)]
    return lefts, [normal(rank, 50, seed=10 + i) for i, rank in enumerate(ranks)]


def _weighed(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return sum(share * value for share, value in zip(shares, values, strict=True))


def check_reedit(reedit: Callable) -> Right:
    """Compare after each slot with least squares over all packets so far; then try every order of the slots."""
    d_mlp, d_model, lam, C = 14, 4, 1.0, moment(14, seed=20)
    common = 2 * normal(d_mlp, seed=21)
    one, two, three, four, five = (
        Packet(f"{seed:x}" * 64, common + normal(d_mlp, seed=seed), normal(d_model, seed=40 + seed))
        for seed in range(1, 6)
    )
    slots = [[one, two], [three, Packet(*one)], [four, five, Packet(*two)]]

    def solved(packets: Sequence[Packet]) -> Float[Tensor, "d_model d_mlp"]:
        keys, shares = torch.stack([p.key for p in packets]), torch.stack([p.share for p in packets])
        return least_squares(keys, shares, C, lam)

    found = ask(reedit, slots, C, lam)
    expect(
        len(found) == len(slots),
        f"there are {len(slots)} slots and {len(found)} changes: return one change after each slot.",
    )
    so_far = []
    for t, (change, slot) in enumerate(zip(found, slots, strict=True)):
        so_far += slot
        alone = [solved(other) for other in slots[: t + 1]]
        mistakes = {
            f"after slot {t} an answer that arrived twice counts twice.": solved(so_far),
            f"after slot {t} the slots' own changes are added up: none of them knows the others' keys.": sum(alone),
            f"after slot {t} only that slot's packets are written: what came before is forgotten.": alone[-1],
        }
        wanted = solved(list({packet.answer: packet for packet in so_far}.values()))
        judge(
            f"dW after slot {t}",
            change,
            wanted,
            mistakes,
            f"after slot {t} dW is not the solution over all packets held.",
        )
    for order in permutations(slots):
        last = ask(reedit, order, C, lam)[-1]
        expect(
            near(last, found[-1], EXACT), "the last dW depends on the order of the slots: solve from the base weights."
        )
    return Right("each slot is solved from the base weights, and all six orders of the slots end with the same dW.")


def check_settled(resolve: Callable) -> Right:
    """Check the doubtful cases by hand, then compare with the library on random claims in shuffled order."""
    a, b = (Claim("a", "ada", 0, "q", "yes"), Claim("b", "bob", 1, "q", "yes"))
    c, d = Claim("c", "cyd", 2, "q", "no"), Claim("d", "cyd", 3, "q", "no")
    for claims, wanted, sentence in (
        ([a], {"a"}, "a question with one packet has no conflict: the packet stays"),
        ([b, a], {"a"}, "of two packets with the same answer only the oldest stays"),
        ([a, b, c], {"a"}, "two clients say yes and one says no: yes stays"),
        ([a, c], set(), "one client says yes and one says no: nobody has a majority, and nothing stays"),
        ([a, c, d], set(), "a client that publishes an answer twice has one vote, so this is a tie"),
        ([Claim("e", "eve", 0, "p", "no"), a], {"e", "a"}, "answers to different questions are no conflict"),
        (
            [Claim("f", "f", 1, "q", "yes"), b],
            {"b"},
            "of several packets of one slot, the one with the smallest id stays",
        ),
    ):
        found = set(ask(resolve, claims))
        expect(found == wanted, f"{sentence}: {sorted(wanted)}, not {sorted(found)}.")
    draw = dice(0)
    for _ in range(200):
        claims = [
            Claim(f"{i:02}", draw.choice("abcd"), draw.randrange(3), "pq"[i % 2], draw.choice("xyz")) for i in range(9)
        ]
        wanted = {
            packet.id for one in _by_question(claims) for packet in conflicts.resolve((), one, conflicts.majority)
        }
        found = set(ask(resolve, claims))
        expect(found == wanted, f"of nine random packets {sorted(wanted)} should stay, not {sorted(found)}.")
        draw.shuffle(claims)
        same = set(ask(resolve, claims)) == found
        expect(same, "the result depends on the order of the list: two clients could reach different results.")
    return Right("every client reaches the same result, whatever the order in which packets arrived.")


def _by_question(claims: Sequence[Claim]) -> list[list[Claim]]:
    """Claims show no shares, which `resolve` compares between questions; so it gets one question at a time."""
    return [[claim for claim in claims if claim.question == question] for question in {c.question for c in claims}]
