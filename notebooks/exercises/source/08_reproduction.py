# %% [markdown]
# # Exercises: reproduction
#
# Three exercises on [chapter 08](../08_reproduction.ipynb). Put your lines where a function raises
# `NotImplementedError`, run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - say of a claim whether it is held, not held or undecided;
# - compare two methods by a difference, with an interval, where a ratio would say nothing;
# - give every seed facts of its own, and keep out those on which something was chosen.

# %%
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import torch
from checks.reproduction import check_dealt, check_gap, check_verdict
from jaxtyping import Float

# %% [exercise] difficulty=2 importance=5 minutes=10
# ## Held, not held, undecided
#
# A claim was measured on a few seeds, one number each, and should be at least `bound`. It is *held* if the whole 95%
# interval of Student's t for the mean reaches the bound, *not held* if no part of it does, and *undecided* otherwise.
# `scipy.stats.t.ppf(p, degrees)` is the quantile of t; import what you need inside the function.


# %%
def verdict(values: Float[np.ndarray, " seeds"], bound: float) -> Literal["held", "not held", "undecided"]:
    """Return the verdict on a claim from its value on each of two seeds or more."""
    ### BEGIN SOLUTION
    from scipy.stats import t as student

    n = len(values)
    half = student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5
    if values.mean() - half >= bound:
        return "held"
    return "undecided" if values.mean() + half >= bound else "not held"
    ### END SOLUTION


# %%
check_verdict(verdict)

# %% [hidden]
from checks.algebra import normal
from checks.verdict import expect
from scipy.stats import ttest_1samp

for n in (2, 3, 4, 7, 20):
    values = normal(n, seed=n).numpy()
    ends = ttest_1samp(values, 0).confidence_interval(0.95)
    for bound in (ends.low - 0.01, ends.low + 0.01, float(values.mean()), ends.high - 0.01, ends.high + 0.01):
        wanted = "held" if bound <= ends.low else "undecided" if bound <= ends.high else "not held"
        found = verdict(values, bound)
        expect(found == wanted, f"{n} values around {values.mean():.2f}, bound {bound:.2f}: {wanted}, not {found}.")

# %% [hint]
# The interval holds the mean, so its width is that of the mean: the standard deviation of the values divided by the
# root of their number. How many degrees of freedom do three values leave, and which quantile cuts off 2.5%?

# %% [exercise] difficulty=2 importance=5 minutes=15
# ## Twice as good
#
# "Twice as good as the baseline" divides by the baseline's score, which may be near zero. The difference
# $\bar a - 2 \bar b$ has no denominator: the claim holds where it is above zero. Both methods were asked about the same
# facts, so facts are drawn in pairs. Find its 95% percentile bootstrap interval.


# %%
def gap(
    first: Float[torch.Tensor, " facts"], second: Float[torch.Tensor, " facts"], times: float, draws: int, seed: int
) -> tuple[float, float]:
    """Return both ends of the 95% interval of mean(first) - times * mean(second), over facts drawn with replacement.

    The same seed gives the same interval.
    """
    ### BEGIN SOLUTION
    pairs = first - times * second
    drawn = torch.randint(len(pairs), (draws, len(pairs)), generator=torch.Generator().manual_seed(seed))
    low, high = pairs[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=pairs.dtype))
    return float(low), float(high)
    ### END SOLUTION


# %%
check_gap(gap)

# %% [hint]
# Form the number that each fact contributes before you draw. The mean of these numbers is the difference of the means,
# and a drawn fact brings the values of both methods.

# %% [exercise] difficulty=3 importance=4 minutes=20
# ## Facts of their own
#
# Seeds that share facts are not independent, and a fact on which a setting was chosen flatters that setting. Deal the
# facts to the seeds at random. No question may occur twice, neither in one seed nor in two (several facts can ask the
# same question). No question of `used` may occur at all. If there are not enough questions, raise `ValueError`.


# %%
def dealt(questions: Sequence[str], used: Collection[str], seeds: int, n: int, seed: int) -> list[list[int]]:
    """Return n facts for each seed, as places in `questions`, which has the question of every fact."""
    ### BEGIN SOLUTION
    from random import Random

    first = {}
    for i, question in enumerate(questions):
        if question not in used:
            first.setdefault(question, i)
    one_each = list(first.values())
    Random(seed).shuffle(one_each)
    if len(one_each) < seeds * n:
        raise ValueError(f"{seeds} seeds of {n} facts need {seeds * n} questions, but there are {len(one_each)}.")
    return [one_each[s * n : (s + 1) * n] for s in range(seeds)]
    ### END SOLUTION


# %%
check_dealt(dealt)

# %% [hint]
# A dictionary from a question to the first fact that asks it leaves one fact for each question. Shuffle these once and
# cut the result into pieces: then nothing is dealt twice.
