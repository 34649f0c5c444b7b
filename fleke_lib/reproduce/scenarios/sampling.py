"""The facts of each seed: drawn from the atlas's facts that chose neither layers nor lambda, none for two seeds.

Student's interval over seeds supposes that seeds are independent. Seeds that share facts are not.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence

from fleke_lib.edit.trajectories import shareable
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import TUNED_ON, load_facts
from fleke_lib.model.language_model import LanguageModel


def held_out() -> Sequence[Fact]:
    """The atlas's facts on which neither layers nor lambda were chosen, 480 of 591.

    The weight of bystanders was chosen on a quarter of them, and `TopK(2)` in sight of all. No further choice may be
    made on them.
    """
    return load_facts("atlas")[TUNED_ON:]


def samples(lm: LanguageModel, facts: Sequence[Fact], n: int, seeds: int) -> list[tuple[Fact, ...]]:
    """For each seed `n` facts of its own, by `draw`; no fact is in two samples.

    Raises:
        ValueError: there are fewer than `n * seeds` shareable facts with different questions.
    """
    left, found = list(facts), []
    for seed in range(seeds):
        found.append(draw(lm, left, n, seed))
        taken = {fact.question for fact in found[-1]}
        left = [fact for fact in left if fact.question not in taken]
    return found


def shared(samples: Iterable[Sequence[Fact]]) -> int:
    """The number of facts that are in more than one sample."""
    return sum(count > 1 for count in Counter(fact for sample in samples for fact in set(sample)).values())


def digest(samples: Iterable[Sequence[Fact]]) -> str:
    """SHA-256 of all questions and answers, sample by sample, in hexadecimal digits."""
    texts = [[(fact.question, fact.target_true, fact.target_new) for fact in sample] for sample in samples]
    return hashlib.sha256(repr(texts).encode()).hexdigest()


def draw(lm: LanguageModel, facts: Sequence[Fact], n: int, seed: int) -> tuple[Fact, ...]:
    """Draw `n` shareable facts of a few relations, with different questions, by a seed.

    Clients can share only if several facts have the same relation. Relations are therefore drawn one after another,
    with the greater of n / 8 and 4 facts of each; more per relation only if there are too few relations.

    Raises:
        ValueError: there are fewer than `n` such facts.
    """
    chance, kinds = random.Random(seed), {}
    for fact in {fact.question: fact for fact in shareable(lm, facts)}.values():
        kinds.setdefault(fact.relation or fact.prompt, []).append(fact)
    each = max(4, n // 8)
    groups = [
        chance.sample(kinds[kind], min(each, len(kinds[kind]))) for kind in chance.sample(sorted(kinds), len(kinds))
    ]
    drawn = [fact for group in groups for fact in group][:n]
    taken = set(drawn)
    rest = [fact for kind in kinds.values() for fact in kind if fact not in taken]
    drawn += chance.sample(rest, min(len(rest), n - len(drawn)))
    if len(drawn) < n:
        raise ValueError(f"{n} facts are asked for, and there are {len(drawn)} of different kinds: ask for fewer.")
    return tuple(drawn)
