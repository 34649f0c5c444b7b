"""Checks of the exercises to chapter 00."""

import math
from collections.abc import Callable

import torch

from checks.algebra import normal
from checks.verdict import Largest, NotYet, Right, ask, expect, near

# Facts 0 to 2. Log-probabilities of the new target and of the prompt's own true answer.
TABLE = (
    # fact, kind, new, true
    (0, "question", -1.0, -4.0),
    (0, "paraphrase", -1.0, -3.0),
    (0, "paraphrase", -2.0, -3.0),
    (0, "paraphrase", -1.5, -2.0),
    (0, "neighbour", -1.0, -2.0),
    (0, "neighbour", -6.0, -2.0),
    (1, "question", -4.0, -1.0),
    (1, "paraphrase", -3.0, -1.0),
    (2, "question", -2.0, -2.5),
    (2, "neighbour", -3.0, -1.0),
    (2, "neighbour", -5.0, -0.5),
    (2, "neighbour", -4.0, -2.0),
)
BY_HAND = {"efficacy": 2 / 3, "paraphrase": (3 / 3 + 0 / 1) / 2, "specificity": (1 / 2 + 3 / 3) / 2}
POOLED = {"paraphrase": 3 / 4, "specificity": 4 / 5}


def check_three_things(three_things: Callable) -> Right:
    """Compare with a count by hand; then try a tie, in which neither answer wins."""
    fact, kind, new, true = zip(*TABLE, strict=True)
    found = ask(three_things, torch.tensor(new), torch.tensor(true), torch.tensor(fact), kind)
    names = ", ".join(BY_HAND)
    expect(isinstance(found, dict) and found.keys() == BY_HAND.keys(), f"return a dict with the keys {names}.")
    for name, wanted in BY_HAND.items():
        _check_one(name, float(found[name]), wanted)
    even, fact = torch.zeros(3), torch.zeros(3, dtype=torch.int64)
    drawn = ask(three_things, even, even.clone(), fact, ("question", "paraphrase", "neighbour"))
    for name in BY_HAND:
        expect(drawn[name] == 0, f"{name} counts a tie as a win: an answer that is only equally likely has not won.")
    return Right("three facts, by hand: efficacy 0.667, paraphrase 0.500, specificity 0.750.")


def _check_one(name: str, found: float, wanted: float) -> None:
    if abs(found - wanted) < 1e-6:
        return
    expect(not math.isnan(found), f"{name} is not a number: what does a fact without such prompts contribute?")
    pooled = POOLED.get(name, wanted)
    expect(
        abs(found - pooled) > 1e-6,
        f"{name} is a mean over prompts: a fact with many prompts counts for more than one with few.",
    )
    expect(
        name != "specificity" or found > 0.5,
        "specificity has the wrong sign: at a neighbour, which of the two answers should be likelier?",
    )
    raise NotYet(f"{name} is {found:.3f} on a table for which a count by hand gives {wanted:.3f}.")


def check_size(size: Callable) -> Right:
    """Compare with the singular values of the product, which the reader's function must not form."""
    left, right = normal(60, 3, seed=0), normal(3, 100, seed=1)
    right[2] = right[0] - 0.5 * right[1]
    with Largest() as largest:
        found = float(ask(size, left, right))
    wanted = float(torch.linalg.svdvals(left @ right).square().sum().sqrt())
    expect(
        largest.numbers <= max(left.numel(), right.numel()),
        f"size creates a tensor of {largest.numbers:,} numbers: compute the norm without forming the product.",
    )
    expect(abs(found - wanted**2) > 1e-6 * wanted**2, "this is the square of the norm: take its root.")
    expect(
        abs(found - float(left.norm() * right.norm())) > 1e-6 * wanted,
        "the product of the factors' norms is a bound: the norm of their product is usually smaller.",
    )
    expect(abs(found - wanted) < 1e-6 * wanted, f"the norm of the edit should be {wanted:.3f}, but is {found:.3f}.")
    return Right(f"the largest tensor had {largest.numbers:,} numbers; dW would have had {60 * 100:,}.")


def check_written(written: Callable) -> Right:
    """Compare bit for bit, also when the block fails and with a second edit inside the first."""
    base, delta, other = normal(20, 30, seed=2).float(), *(1e-3 * normal(20, 30, seed=s).float() for s in (3, 4))
    weight = base.clone()
    with ask(written, weight, delta):
        inside = weight.clone()
    expect(near(inside, base + delta, 1e-6), "inside the block the weight is not W + dW: write into the tensor itself.")
    _check_back(weight, base, "after the block")
    with ask(written, weight, delta), ask(written, weight, other):
        expect(near(weight, base + delta + other, 1e-6), "two edits, one inside the other, do not add up.")
    _check_back(weight, base, "after two edits, one inside the other,")
    try:
        with ask(written, weight, delta):
            raise KeyError("something in the block")
    except KeyError:
        _check_back(weight, base, "when the block fails")
    else:
        raise NotYet("an error in the block is swallowed: let it reach the code around the block.")
    return Right("every bit is restored, also when the block fails.")


def _check_back(weight: torch.Tensor, base: torch.Tensor, when: str) -> None:
    off = int((weight != base).sum())
    expect(
        not off or not near(weight, base, 1e-6),
        f"{when} {off} of {base.numel()} numbers differ in their last bits: rounding errors are left.",
    )
    expect(not off, f"{when} the weight still carries the edit.")
