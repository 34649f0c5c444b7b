"""Who edits what, by the rule of the paper's public code (zongkaiz/FLEKE), and what that rule leaves out.

COUNTERFACT   one relation a client, of those with more than 800 facts; where fewer have so many, the largest ones
zsRE          spectral clusters of the questions' embeddings, one a client
slots         a client's facts in the lexicographic order of their numbers, cut in equal parts

There the embeddings are a sentence encoder's; here they are the edited model's own mean states, so that nothing else
need be fetched. A file without relations is spread by prompt, which is the finer cut.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import Facts
from fleke_lib.federation.partitioning import Part
from fleke_lib.federation.retrieval.topics import relation_of
from fleke_lib.reproduce.papers.presets import Dataset
from fleke_lib.unlearn.edits.withdrawal import without

MANY = 800  # facts that a relation must exceed to be a client's


@dataclass(frozen=True)
class Chosen:
    """The facts of a run: `repeated` questions and facts that are not `shareable` have been left out and counted."""

    facts: tuple[Fact, ...]
    repeated: int
    not_shareable: int


def check_dataset(facts: Facts, dataset: Dataset) -> None:
    """Raises ValueError where most prompts are questions and should be statements, or the reverse."""
    questions = sum("?" in fact.prompt for fact in facts)
    found = "zsre" if 2 * questions > len(facts) else "counterfact"
    if found != dataset:
        raise ValueError(
            f"{questions} of the {len(facts)} prompts in {facts.source} are questions, as in {found}, and this run is "
            f"for {dataset}: give a file of {dataset}, or the name of the run that ends in -{found}."
        )


def choose(facts: Sequence[Fact], good: Sequence[Fact]) -> Chosen:
    """Of facts, and of those among them that are shareable, the first of each question."""
    first: dict[str, Fact] = {}
    for fact in good:
        first.setdefault(fact.question, fact)
    return Chosen(tuple(first.values()), len(good) - len(first), len(facts) - len(good))


def limited(facts: Sequence[Fact], dataset: Dataset, clients: int, limit: int) -> tuple[Fact, ...]:
    """The facts that take part: of zsRE the first ones, of COUNTERFACT as many of each client's relation.

    Raises:
        ValueError: there are fewer than four.
    """
    if dataset == "counterfact":
        groups = _relations(facts, min(clients, max(2, limit // 2)))
        facts = [fact for group in groups for fact in group[: max(1, limit // len(groups))]]
    if min(len(facts), limit) < 4:
        raise ValueError(f"{min(len(facts), limit)} facts are too few for a federation: give 4 or more.")
    return tuple(facts[:limit])


def parts_of(
    facts: Sequence[Fact],
    dataset: Dataset,
    clients: int,
    slots: int,
    labels: Callable[[], Sequence[int]],
) -> tuple[Part, ...]:
    """The clients' parts; fewer clients and slots where there are too few facts for so many.

    Args:
        labels: gives the cluster of each fact; asked for zsRE only.
    """
    if dataset == "counterfact":
        groups = _relations(facts, clients)
    else:
        found: dict[int, list[Fact]] = {}
        for fact, label in zip(facts, labels(), strict=True):
            found.setdefault(label, []).append(fact)
        groups = [found[label] for label in sorted(found)]
    slots = max(1, min(slots, max(map(len, groups))))
    return tuple(Part(f"client {i}", _slots(group, slots), ()) for i, group in enumerate(groups))


def remaining(parts: Sequence[Part], gone: Sequence[Fact]) -> tuple[Part, ...]:
    """The parts without some facts, and without clients to whom nothing is left."""
    return tuple(left for left in (without(part, gone) for part in parts) if left.facts)


def _relations(facts: Sequence[Fact], clients: int) -> list[list[Fact]]:
    """The facts of as many relations: the first ones with more than `MANY` facts, else the largest ones."""
    sizes = Counter(relation_of(fact) for fact in facts)  # in the order of the file
    wanted = [relation for relation, size in sizes.items() if size > MANY][:clients]
    if len(wanted) < clients:
        wanted = [relation for relation, _ in sizes.most_common(clients)]
    return [[fact for fact in facts if relation_of(fact) == relation] for relation in wanted]


def _slots(facts: Sequence[Fact], slots: int) -> tuple[tuple[Fact, ...], ...]:
    ordered = sorted(facts, key=lambda fact: fact.id)  # as file names are: "10" before "9"
    return tuple(tuple(ordered[i] for i in part) for part in np.array_split(np.arange(len(ordered)), slots))
