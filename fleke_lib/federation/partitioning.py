"""How facts are distributed over clients and over time.

A client edits facts of its topics, slot after slot. Sharing helps only where clients have topics in common. Each topic
therefore belongs to two clients: each holds one half of it and would gain from the other half. Two more situations can
be requested: clients want the same edit (`overlap`), and clients want different answers to the same question
(`conflicts`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int

from fleke_lib.facts.fact import Fact, check_list, normal_form
from fleke_lib.federation.retrieval.topics import main_topics, relation_of, topics_of
from fleke_lib.model.language_model import LanguageModel

WAYS = ("relation", "spectral", "dirichlet")
Owners = Int[np.ndarray, " facts"]  # the client of each fact


@dataclass(frozen=True)
class Part:
    """One client's share of the facts.

    slots: the facts that it edits in slot 0, 1, ...
    relevant: facts of its main topics (see `main_topics`) that others hold and whose question it does not answer
        itself. These are the facts that it can gain by sharing.
    """

    name: str
    slots: tuple[tuple[Fact, ...], ...]
    relevant: tuple[Fact, ...]

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All facts that it edits, in the order of the slots."""
        return tuple(fact for slot in self.slots for fact in slot)

    def __repr__(self) -> str:
        sizes = ", ".join(str(len(slot)) for slot in self.slots)
        return f"Part({self.name}: {len(self.facts)} facts, in slots {sizes}; {len(self.relevant)} relevant elsewhere)"


def partition(
    facts: Sequence[Fact],
    clients: int = 8,
    by: Literal["relation", "spectral", "dirichlet"] = "relation",
    *,
    slots: int = 10,
    overlap: float = 0.0,
    conflicts: float = 0.0,
    alpha: float = 0.3,
    lm: LanguageModel | None = None,
    seed: int = 0,
) -> tuple[Part, ...]:
    """Distribute facts over clients and slots. The same arguments give the same parts.

    First each fact is given to one client; this is a base holding. With "relation" and "spectral" each topic belongs to
    two clients, one half each. With "dirichlet" each client's shares of a relation are drawn from Dirichlet(alpha); a
    client with less than one fact per slot gets facts from the largest client. A client's facts are shuffled over its
    slots, whose sizes differ by one at most. Base holdings do not depend on `overlap` and `conflicts`.

    Then further holdings are added, each to a client that does not hold the question yet, in its emptiest allowed slot:

        conflicts = conflicting / facts               facts for which one more client wants another answer
        overlap   = repeated / (facts + conflicting + repeated)

    A repeated holding is a fact (same question, same answer) that another client holds at an *earlier* slot. The
    denominator counts everything that clients want to edit. Both shares are exact up to rounding to whole holdings.
    Repeated holdings are dealt evenly to the clients, and to clients of the fact's topic as long as there are any.

    Args:
        by: what a topic is: with "relation" and "dirichlet" the relation (the prompt, where a fact names none); with
            "spectral" a cluster of the questions' embeddings in the model, twice as many clusters as clients.
        overlap: from 0 up to, not including, 1.
        conflicts: from 0 to 1.
        alpha: parameter of the Dirichlet distribution: the smaller, the more a relation belongs to one client.
        lm: the model that embeds questions; for "spectral" only.

    Raises:
        ValueError: an argument is out of its range, a question occurs twice, there are too few facts or topics for
            these clients and slots, or no room for this overlap or these conflicts.
    """
    check_list(facts)
    facts = tuple(facts)
    _check(facts, clients, by, slots, overlap, conflicts, alpha, lm)
    rng = np.random.default_rng(seed)
    topics = topics_of(facts, by, clients, lm, seed)
    if by == "dirichlet":
        owner = _level(_dirichlet(topics, clients, alpha, rng), clients, slots, rng)
    else:
        owner = _deal(topics, clients, rng)
    if (least := np.bincount(owner, minlength=clients).min()) < slots:
        raise ValueError(
            f"{len(set(topics))} topics, each of two clients, leave one of {clients} clients with {least} facts for "
            f"{slots} slots: give facts of more topics, fewer clients or fewer slots."
        )
    desks, published = _spread(facts, topics, owner, clients, slots, rng)
    conflicting = _add_conflicts(desks, facts, topics, round(conflicts * len(facts)), rng)
    repeated = round(overlap * (len(facts) + conflicting) / (1 - overlap))
    _repeat(desks, facts, topics, published, repeated, rng)
    return tuple(desk.part(f"client {i}", facts, topics) for i, desk in enumerate(desks))


@dataclass(eq=False)
class _Desk:
    """One client while holdings are placed: facts by slot, indices of the questions that it holds, its main topics."""

    slots: list[list[Fact]]
    held: set[int]
    main: set[str]

    def place(self, index: int, fact: Fact, first: int, rng: np.random.Generator) -> None:
        """Put a fact into the emptiest slot from `first` on."""
        sizes = np.array([len(slot) for slot in self.slots[first:]])
        self.slots[first + rng.choice(np.flatnonzero(sizes == sizes.min()))].append(fact)
        self.held.add(index)

    def part(self, name: str, facts: Sequence[Fact], topics: Sequence[str]) -> Part:
        relevant = [fact for i, fact in enumerate(facts) if topics[i] in self.main and i not in self.held]
        return Part(name, tuple(map(tuple, self.slots)), tuple(relevant))


def _deal(topics: Sequence[str], clients: int, rng: np.random.Generator) -> Owners:
    """The client of each fact: topics, the largest first, are halved between the two clients with the fewest facts.

    The sizes of two clients therefore differ by at most half of the largest topic.
    """
    owner, load = np.empty(len(topics), int), np.zeros(clients, int)
    groups = list(_groups(topics, rng))
    for members in sorted([groups[i] for i in rng.permutation(len(groups))], key=len, reverse=True):
        two = np.lexsort([rng.random(clients), load])[:2]
        for client, half in zip(two, np.array_split(members, 2), strict=True):  # the first half is the larger one
            owner[half] = client
            load[client] += len(half)
    return owner


def _dirichlet(topics: Sequence[str], clients: int, alpha: float, rng: np.random.Generator) -> Owners:
    """The client of each fact: a client with share p of a topic of n facts gets n p of them, rounded up or down."""
    owner = np.empty(len(topics), int)
    for members in _groups(topics, rng):
        ends = rng.dirichlet(np.full(clients, alpha)).cumsum()
        places = (np.arange(len(members)) + rng.random()) / len(members)
        owner[members] = np.searchsorted(ends, places).clip(max=clients - 1)
    return owner


def _groups(topics: Sequence[str], rng: np.random.Generator):
    """The facts of each topic, shuffled."""
    labels = np.array(topics)
    for topic in sorted(set(topics)):
        yield rng.permutation(np.flatnonzero(labels == topic))


def _level(owner: Owners, clients: int, least: int, rng: np.random.Generator) -> Owners:
    """Move facts from the largest client to the smallest until every client has at least `least`."""
    while (sizes := np.bincount(owner, minlength=clients)).min() < least:
        owner[rng.choice(np.flatnonzero(owner == sizes.argmax()))] = sizes.argmin()
    return owner


def _spread(
    facts: Sequence[Fact], topics: Sequence[str], owner: Owners, clients: int, slots: int, rng: np.random.Generator
) -> tuple[list[_Desk], Int[np.ndarray, " facts"]]:
    """Each client with its base holdings shuffled over the slots, and the slot of each fact."""
    desks, published = [], np.empty(len(facts), int)
    for client in range(clients):
        mine = rng.permutation(np.flatnonzero(owner == client))
        placed = np.array_split(mine, slots)
        for slot, members in enumerate(placed):
            published[members] = slot
        main = main_topics([topics[i] for i in mine])
        desks.append(_Desk([[facts[i] for i in members] for members in placed], set(mine.tolist()), main))
    return desks, published


def _add_conflicts(
    desks: list[_Desk], facts: Sequence[Fact], topics: Sequence[str], wanted: int, rng: np.random.Generator
) -> int:
    """Give each of `wanted` facts to one more client, with another answer; clients of the fact's topic come first."""
    answers: dict[str, dict[str, str]] = {}
    for fact in facts:
        answers.setdefault(relation_of(fact), {}).setdefault(normal_form(fact.target_new), fact.target_new)
    done = 0
    for i in rng.permutation(len(facts)).tolist():
        own = {normal_form(facts[i].target_new), normal_form(facts[i].target_true)}
        others = sorted(text for form, text in answers[relation_of(facts[i])].items() if form not in own)
        if done == wanted or not others:
            continue
        able = [desk for desk in desks if i not in desk.held]
        able = [desk for desk in able if topics[i] in desk.main] or able
        desk = able[rng.integers(len(able))]
        desk.place(i, replace(facts[i], target_new=others[rng.integers(len(others))]), 0, rng)
        done += 1
    if done < wanted:
        raise ValueError(
            f"{wanted} facts should have a conflicting answer, but the relations of only {done} have one to give: give "
            "fewer conflicts, or facts with more different targets."
        )
    return done


def _repeat(
    desks: list[_Desk],
    facts: Sequence[Fact],
    topics: Sequence[str],
    published: Int[np.ndarray, " facts"],
    wanted: int,
    rng: np.random.Generator,
) -> None:
    """Give `wanted` facts to one more client each, in a later slot than that of the first holder.

    The client must not hold an answer to the question yet. Clients take turns, with facts of their main topics first.
    """
    early = np.flatnonzero(published + 1 < len(desks[0].slots)).tolist()
    open_to = []
    for desk in desks:
        free = rng.permutation([i for i in early if i not in desk.held]).tolist()
        open_to.append(sorted(free, key=lambda i, main=desk.main: topics[i] in main))  # taken from the end
    if (room := sum(map(len, open_to))) < wanted:
        raise ValueError(
            f"this overlap needs {wanted} repeated holdings, but only {room} facts are open to a client at a later "
            "slot: give less overlap, more clients or more slots."
        )
    while wanted:
        for client in rng.permutation(len(desks)):
            if wanted and open_to[client]:
                i = open_to[client].pop()
                desks[client].place(i, facts[i], published[i] + 1, rng)
                wanted -= 1


def _check(facts, clients, by, slots, overlap, conflicts, alpha, lm) -> None:
    if by not in WAYS:
        raise ValueError(f"facts cannot be spread by {by!r}: give one of {', '.join(WAYS)}.")
    if by == "spectral" and lm is None:
        raise ValueError("spectral topics are clusters of a model's states, and no model was given: give lm=.")
    if clients < 2 or slots < 1:
        raise ValueError(f"clients={clients} and slots={slots} are too few: give at least 2 clients and 1 slot.")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap} is no share of repeated edits: give 0 or more and less than 1.")
    if not 0 <= conflicts <= 1:
        raise ValueError(f"conflicts={conflicts} is no share of the facts: give 0 to 1.")
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha={alpha} is no parameter of a Dirichlet distribution: give a positive number.")
    if len(facts) < clients * slots:
        raise ValueError(
            f"{len(facts)} facts are fewer than one for each of {clients} clients in each of {slots} slots: give at "
            f"least {clients * slots} facts, fewer clients or fewer slots."
        )
    twice = [question for question, times in Counter(normal_form(fact.question) for fact in facts).items() if times > 1]
    if twice:
        raise ValueError(f"The question {twice[0]!r} occurs twice: give facts with one answer to each question.")
