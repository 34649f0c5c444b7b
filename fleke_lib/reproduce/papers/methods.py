"""The methods of a run, and the questions that each method's models are asked.

Every fact is asked twice: of the model of the client that edited it, and of the model of the client after that one,
which has it by sharing or not at all. Where all clients end with one model the two are the same.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fleke_lib.edit import Edit
from fleke_lib.edit.moments import Moments
from fleke_lib.evaluation.metrics import evaluate, free_decoding
from fleke_lib.evaluation.results import Evaluation
from fleke_lib.facts.fact import Fact
from fleke_lib.federation import baselines, weights
from fleke_lib.federation.outcome import pooled
from fleke_lib.federation.partitioning import Part
from fleke_lib.federation.provider import Provider
from fleke_lib.federation.rounds import Run
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.reproduce.papers.pieces import Progress, asks, digest, kept, timed

ASKED = 200  # facts in a file of scores/
OWNER, NEIGHBOUR = "asked of the client that edited it", "asked of the next client"
ALL = "everybody"
Found = dict[str, dict[str, Evaluation]]  # by method and by whom the fact is asked


@dataclass(frozen=True)
class Exam:
    """One model: a method's, of one client or of all; and what it is asked. `edit` computes it, None for the base."""

    method: str
    client: str
    asked: Mapping[str, tuple[Fact, ...]]
    edit: Callable[[], Edit | None]


def exams(
    lm: LanguageModel,
    parts: Sequence[Part],
    published: Run,
    everything: Run,
    provider: Provider,
    moments: Moments,
    lam: float,
) -> Iterator[Exam]:
    """Every model of the table; nothing is computed before its `edit` is called."""
    facts = tuple(fact for part in parts for fact in part.facts)

    def central() -> Edit:
        return baselines.centralised(lm, facts, [one.mkv for fact in facts for one in provider([fact])], moments)

    def cumulative(run: Run, part: Part) -> Edit:
        return weights.cumulative(run, part.name, moments, lam=lam, device=lm.device)

    def alone(some: Sequence[Part]) -> list[Edit]:
        paths = ([prepared.trajectory for prepared in provider(part.facts)] for part in some)
        return baselines.local_only(paths, moments, lam, lm.device)

    def averaged() -> Edit:
        return baselines.fedavg(alone(parts), [len(part.facts) for part in parts])

    def each(method: str, edit: Callable[[Part], Edit]) -> Iterator[Exam]:
        for i, part in enumerate(parts):
            asked = {OWNER: part.facts, NEIGHBOUR: parts[(i + 1) % len(parts)].facts}
            yield Exam(method, part.name, asked, partial(edit, part))

    whole = {OWNER: facts}
    yield Exam("before", ALL, whole, lambda: None)
    yield Exam("MEMIT in one place, with text", ALL, whole, central)
    yield Exam("FedEdit, everything", ALL, whole, partial(cumulative, everything, parts[0]))
    yield from each("FedEdit, published rule", partial(cumulative, published))
    yield from each("alone", lambda part: alone([part])[0])
    yield Exam("FedAvg", ALL, whole, averaged)


def answers(
    lm: LanguageModel, exam: Exam, key: str, folder: Path, progress: Progress, seconds: dict[str, float]
) -> dict[str, Evaluation]:
    """What the exam's model says, from disk as far as it is there.

    Args:
        key: of everything that the models of this run depend on.
        seconds: is added to: the edit's if it was computed now, the answers' whenever they were.
    """
    pieces = [(who, facts[i : i + ASKED]) for who, facts in exam.asked.items() for i in range(0, len(facts), ASKED)]
    paths = [folder / "scores" / f"{_name(exam, key, facts)}.json" for _, facts in pieces]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    if missing:
        with timed("edits", seconds):
            edit = exam.edit()
        with edit.applied(lm) if edit else nullcontext():
            for done, i in enumerate(missing, 1):
                kept(paths[i], partial(_measured, lm, pieces[i][1]))
                progress(f"{exam.method} ({exam.client}): {done} of {len(missing)} pieces asked")
    found: dict[str, list[Evaluation]] = {who: [] for who in exam.asked}
    for path, (who, facts) in zip(paths, pieces, strict=True):
        piece = kept(path, dict)
        columns = {name: np.array(values, dtype=float) for name, values in piece["per_fact"].items()}  # None is nan
        found[who].append(Evaluation(facts, columns))
        seconds["answers"] = seconds.get("answers", 0.0) + piece["seconds"]
    return {who: pooled(several) for who, several in found.items()}


def table(measured: Sequence[tuple[Exam, Mapping[str, Evaluation]]]) -> Found:
    """The clients' evaluations put together, by method; one model answers the same whoever asks."""
    found: dict[str, dict[str, list[Evaluation]]] = {}
    for exam, by in measured:
        for who in (OWNER, NEIGHBOUR):
            found.setdefault(exam.method, {}).setdefault(who, []).append(by.get(who, by[OWNER]))
    return {method: {who: pooled(several) for who, several in by.items()} for method, by in found.items()}


def _measured(lm: LanguageModel, facts: tuple[Fact, ...]) -> dict:
    """Teacher-forced metrics and free decoding by the model as it is now, and the seconds that they took."""
    begin = time.perf_counter()
    both = Evaluation(facts, {**evaluate(lm, facts).per_fact, **free_decoding(lm, facts).per_fact})
    return {"per_fact": both.to_dict()["per_fact"], "seconds": time.perf_counter() - begin}


def _name(exam: Exam, key: str, facts: Sequence[Fact]) -> str:
    """The digest of what a piece depends on, with the prompts that are only asked."""
    prompts = [[*asks(f), f.target_true, f.paraphrases, [(n.prompt, n.target) for n in f.neighbours]] for f in facts]
    return digest(key, exam.method, exam.client, prompts)[:32]
