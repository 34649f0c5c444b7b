"""How well each client's own edited model answers that client's questions."""

from collections.abc import Mapping, Sequence

import numpy as np

from fleke_lib.edit import Edit
from fleke_lib.evaluation.metrics import evaluate
from fleke_lib.evaluation.results import Evaluation
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.partitioning import Part
from fleke_lib.model.language_model import LanguageModel


def outcome(lm: LanguageModel, edits: Mapping[str, Edit], asked: Mapping[str, Sequence[Fact]]) -> Evaluation:
    """Evaluate each client's facts on the model with that client's edit; all results in one evaluation.

    Args:
        edits: by client; clients with the same `Edit` object are measured together.
        asked: the facts that each client asks about; a fact of several clients counts once for each of them.

    Raises:
        ValueError: a client asks and has no edit, or no client asks anything.
    """
    if missing := set(asked) - set(edits):
        raise ValueError(f"there is no edit for {min(missing)!r}: give one for each client that asks.")
    found: dict[str, Evaluation] = {}
    for edit in {id(edit): edit for edit in edits.values()}.values():
        sharing = [client for client in asked if asked[client] and edits[client] is edit]
        facts = list(dict.fromkeys(fact for client in sharing for fact in asked[client]))
        if not sharing:
            continue
        with edit.applied(lm):
            measured = evaluate(lm, facts)
        place = {fact: i for i, fact in enumerate(facts)}
        found |= {client: measured.subset([place[fact] for fact in asked[client]]) for client in sharing}
    if not found:
        raise ValueError("no client asks anything: give at least one of them a fact.")
    return pooled([found[client] for client in asked if client in found])


def pooled(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Several evaluations concatenated into one; a fact that was measured twice counts twice."""
    names = evaluations[0].per_fact
    return Evaluation(
        tuple(fact for evaluation in evaluations for fact in evaluation.facts),
        {name: np.concatenate([evaluation.per_fact[name] for evaluation in evaluations]) for name in names},
    )


def own(parts: Sequence[Part]) -> dict[str, tuple[Fact, ...]]:
    """The facts that each client edits, by client."""
    return {part.name: part.facts for part in parts}


def wanted(parts: Sequence[Part]) -> dict[str, tuple[Fact, ...]]:
    """The facts that each client edits and those that are relevant to it, by client."""
    return {part.name: tuple(dict.fromkeys((*part.facts, *part.relevant))) for part in parts}
