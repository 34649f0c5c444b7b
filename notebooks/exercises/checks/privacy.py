"""Checks of the exercises on chapter 07."""

import hashlib
from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from checks.algebra import dice, moment, normal
from checks.verdict import Right, ask, expect, judge

WITHIN = 2e-3


def check_proved(proved: Callable) -> Right:
    """Packets rounded to 16 bits; texts nearby, of another length, and none at all."""
    states = 100 * normal(40, 64, seed=0)
    one, along, other, near, alone, longer = dice(0).sample(range(40), 6)
    states[along] = 1.01 * states[one]  # the same direction
    states[near] = states[other] + 1e-2 * states[other].norm() * normal(64, seed=1) / 8  # near, and another text
    which = [one, along, other, near, alone]
    h = torch.cat([states[which], 100 * normal(2, 64, seed=2), states[[longer]] * 1.004]).half().double()
    wanted = torch.tensor([*which, -1, -1, -1])
    found = ask(proved, h, states, WITHIN)
    apart = (h[:, None] - states).norm(dim=-1)
    cosines = cosine_similarity(h[:, None], states[None], dim=-1)
    nearest = apart.argmin(1)
    judge(
        "the answer",
        found,
        wanted,
        {
            "the nearest text is named even where no text is proved: -1 is missing.": nearest,
            "these are the texts of the greatest cosine: a state of another length is another text.": torch.where(
                cosines.amax(1) > 1 - WITHIN, cosines.argmax(1), -1
            ),
            "nothing is proved: is the difference divided by the length of h?": torch.full_like(wanted, -1),
        },
        "a packet has another text, or one that is not proved.",
    )
    return Right("five prompts are proved, and for three packets the list does not have the prompt.")


def check_members(members: Callable) -> Right:
    """An update of five facts among sixty names, solved by numpy; keys are longest where ordinary text's are."""
    d_mlp, d_model, facts, lam = 48, 16, 5, 2.0
    C = moment(d_mlp, seed=3)
    root = torch.linalg.cholesky(C)
    keys = normal(60, d_mlp, seed=4) @ root.T
    own, shares = keys[:facts], normal(facts, d_model, seed=5)
    system = lam * C.numpy() + own.T.numpy() @ own.numpy()
    dW = torch.from_numpy(np.linalg.solve(system, (own.T @ shares).numpy()).T)

    def inside(rows: Tensor, of: Tensor, rank: int = facts) -> Tensor:
        q = torch.linalg.qr(torch.linalg.svd(rows, full_matrices=False).Vh[:rank].T).Q
        return (of @ q).square().sum(1) / of.square().sum(1)

    white = torch.from_numpy(np.linalg.solve(root.numpy(), keys.numpy().T).T)
    wanted = inside(dW @ root, white)
    found = ask(members, dW, C, keys, facts)
    judge(
        "the scores",
        found,
        wanted,
        {
            "keys and update are compared as they are, without whitening.": inside(dW, keys),
            "the keys are whitened and the update is not.": inside(dW, white),
            "the update is whitened and the keys are not.": inside(dW @ root, keys),
            "these are lengths: take the square of both norms.": wanted.sqrt(),
            "the rows span more than the client's facts: only as many directions count.": inside(
                dW @ root, white, d_model
            ),
        },
        "these are not the shares of the whitened keys within the span.",
    )
    best = found.topk(facts).indices
    expect(set(best.tolist()) == set(range(facts)), "the members do not have the highest scores.")
    other = float(found[facts:].max())
    return Right(f"all {facts} members have 1.000, and the best of {len(keys) - facts} other names has {other:.2f}.")


def check_masked(masked: Callable) -> Right:
    """Four clients with pairwise seeds; the total by Python's integers."""
    names = ("bob", "ada", "dan", "cyd")
    seed = {frozenset(pair): "|".join(sorted(pair)).encode() for pair in combinations(names, 2)}
    draw = dice(0)
    vectors = {name: torch.tensor([draw.randrange(-(2**60), 2**60) for _ in range(6)]) for name in names}
    sent = {}
    for name in names:
        seeds = {other: seed[frozenset((name, other))] for other in names if other != name}
        sent[name] = ask(masked, name, vectors[name], seeds, _stream)
        expect(isinstance(sent[name], Tensor), f"what {name} sends is a {type(sent[name]).__name__}: return a tensor.")
        expect(sent[name].dtype == torch.int64, f"what {name} sends is {sent[name].dtype}: stay with integers.")
        expect(not torch.equal(sent[name], vectors[name]), f"{name} sends its vector as it is: nothing is masked.")
        alike = torch.equal(sent[name].diff(), vectors[name].diff())
        expect(not alike, f"one number masks the whole vector of {name}: differences of its entries can be read.")
    total, plain = sum(sent.values()), sum(vectors.values())
    doubled = sum((2 * _stream(s, 6) for s in seed.values()), plain)
    expect(not torch.equal(total, doubled), "both clients of a pair add their mask: one of them must subtract it.")
    expect(torch.equal(total, plain), "the total of what is sent is not the total of the vectors.")
    for one, other in combinations(names, 2):
        both = sent[one] + sent[other]
        open_ = torch.equal(both, vectors[one] + vectors[other])
        expect(not open_, f"the masks of {one} and {other} cancel without the others: use all seeds.")
    return Right("four masked vectors add up to the plain total, and no two of them do.")


def _stream(seed: bytes, n: int) -> Int[Tensor, " n"]:
    """n numbers modulo 2^64, from SHA-256 in counter mode. (A real system takes a stream cipher.)"""
    blocks = [hashlib.sha256(seed + bytes([i])).digest()[:8] for i in range(n)]
    return torch.tensor([int.from_bytes(block, "little", signed=True) for block in blocks])
