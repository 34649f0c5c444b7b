"""Checks of the exercises on chapter 08."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from checks.algebra import dice, normal
from checks.verdict import NotYet, Right, ask, call, expect

THREE, FIVE = (0.95, 1.0, 1.05), (0.9, 0.95, 1.0, 1.05, 1.1)
# From a printed table of t, 4.303 for two degrees of freedom and 2.776 for four: the intervals are [0.876, 1.124] and
# [0.902, 1.098]. Each bound lies where one mistake decides otherwise.
CASES = (
    # values, bound, verdict, and the sentence for another one
    (THREE, 0.86, "held", "the interval is that of single values: divide by the root of their number"),
    (THREE, 0.93, "undecided", "with three values 1.96 is too small: take the quantile of Student's t"),
    (THREE, 0.912, "undecided", "2.5% are cut off at each side, so the quantile is that of 0.975"),
    (THREE, 0.902, "undecided", "three values leave two degrees of freedom"),
    (THREE, 0.885, "undecided", "the deviation is that of a sample: divide by n - 1 under the root"),
    (THREE, 1.1, "undecided", "the mean misses the bound, but a part of the interval reaches it"),
    (THREE, 1.2, "not held", "no part of the interval reaches the bound"),
    (FIVE, 0.9, "held", "five values leave four degrees of freedom, and the whole interval reaches the bound"),
    (FIVE, 0.91, "undecided", "the lower end of the interval is below the bound"),
    ((1.0, 1.0, 1.0), 1.0, "held", "a bound is reached by a value equal to it"),
)
NORMAL = 1.96


def check_verdict(verdict: Callable) -> Right:
    """Values whose intervals are known from a printed table, with bounds between the right end and wrong ones."""
    for values, bound, wanted, otherwise in CASES:
        found = ask(verdict, np.array(values), bound)
        expect(found in ("held", "not held", "undecided"), f"a verdict is {found!r}: return one of the three words.")
        expect(found == wanted, f"{otherwise}: {values} and the bound {bound} are {wanted}, not {found}.")
    return Right("ten claims have the verdict that a printed table of t gives them.")


def check_gap(gap: Callable) -> Right:
    """Compare with the normal approximation; most of what facts differ in is common to both methods."""
    n, draws = 200, 4000
    common = normal(n, seed=0)
    first = 0.7 + dice(0).uniform(0, 0.2) + 0.3 * common + 0.05 * normal(n, seed=1)
    second = 0.3 + 0.15 * common + 0.02 * normal(n, seed=2)
    pairs = first - 2 * second
    low, high = map(float, ask(gap, first, second, 2.0, draws, 0))
    expect(low < high, "the interval has no width: the lower end comes first.")
    middle, half = (low + high) / 2, (high - low) / 2
    error = float(pairs.std()) / n**0.5
    ratio, plain = float(first.mean() / second.mean()), float(first.mean() - second.mean())
    expect(abs(middle - ratio) > 0.1, "this is the ratio of the means, which says nothing where the second is near 0.")
    expect(abs(middle - plain) > 3 * error, "the second mean must be multiplied by `times`.")
    expect(half < 10 * NORMAL * error, "the interval holds the facts' own differences, but should hold their means.")
    expect(abs(middle - float(pairs.mean())) < error, "the interval does not lie around the difference of the means.")
    apart = (float(first.var()) + 4 * float(second.var())) ** 0.5 / n**0.5
    expect(half < 0.9 * NORMAL * apart, "the facts of the two methods are drawn apart: a drawn fact brings both.")
    wide = half / (NORMAL * error)
    close = f"the interval is {wide:.2f} times as wide as it should be: it must hold 95% of the means."
    expect(0.9 < wide < 1.1, close)
    again = tuple(map(float, ask(gap, first, second, 2.0, draws, 0)))
    expect(again == (low, high), "the same seed gives another interval the second time.")
    times = f"{apart / error:.0f} times as wide"
    return Right(f"the interval agrees with the normal approximation; with facts drawn apart it would be {times}.")


def check_dealt(dealt: Callable) -> Right:
    """Facts of which some share a question, and a setting that was chosen on some of the questions."""
    numbers = dice(1).sample(range(1000), 30)
    questions = [f"question {numbers[i % 30]}" for i in range(40)]
    dice(2).shuffle(questions)
    used = {f"question {number}" for number in numbers[:6]}
    first = dice(0).randrange(1000)
    for seed in range(first, first + 20):
        found = ask(dealt, questions, used, 4, 5, seed)
        _check_deal(found, questions, used)
        again = ask(dealt, questions, used, 4, 5, seed)
        expect(again == found, "the same seed deals other facts the second time.")
    deals = [ask(dealt, questions, used, 4, 5, seed) for seed in range(first, first + 300)]
    expect(any(deal != deals[0] for deal in deals), "every seed deals the same facts: nothing is drawn at random.")
    often = Counter(questions[i] for deal in deals for seed in deal for i in seed)
    fair = len(often) == 24 and min(often.values()) > 0.8 * max(often.values())
    expect(fair, "some questions are dealt far more often than others.")
    try:
        call(dealt, questions, used, 5, 5, 0)
    except ValueError:
        return Right("twenty deals share no question, and each of the 24 questions is dealt as often as the others.")
    raise NotYet("five seeds of five facts need 25 questions, and there are 24: raise ValueError.")


def _check_deal(found: list[list[int]], questions: list[str], used: set[str]) -> None:
    sizes = [len(seed) for seed in found]
    expect(sizes == [5] * 4, f"four seeds of five facts are asked for, not {sizes}.")
    asked = [questions[i] for seed in found for i in seed]
    expect(not used & set(asked), "a seed has a question on which a setting was chosen.")
    within = [len({questions[i] for i in seed}) for seed in found]
    expect(within == [5] * 4, "a seed has a question twice: two facts can ask the same one.")
    expect(len(set(asked)) == len(asked), "two seeds have a question in common.")
