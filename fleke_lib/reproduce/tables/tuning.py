"""Opponents are tuned as well as our own method is, on facts that no table reports: CounterFact records 1000 to 1999.

A score hardly sees what an edit does to everything else. Of the settings whose score is within `SLACK` of the best, the
gentlest one is therefore taken: the greatest lambda, the smallest step.
"""

from collections.abc import Callable
from pathlib import Path

from fleke_lib.edit import Edit
from fleke_lib.edit.moments import second_moments
from fleke_lib.edit.trajectories import shareable
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation import baselines, lora
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.mkv.store import stored_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.reproduce.papers.parts import choose
from fleke_lib.reproduce.scenarios.scenario import Scenario
from fleke_lib.reproduce.tables.rows import RANK
from fleke_lib.reproduce.tables.settings import FILE, Settings, load, save

RECORDS = slice(1000, 2000)  # of CounterFact
SIZES = (100, 480, 990)  # facts in the edit
ASKED = 128  # of them, at equal distances
SLACK = 0.01
LAMBDAS = (10_000.0, 3000.0, 1000.0, 300.0, 100.0)
STEPS = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0)  # of the server, for updates and for adapters
FACTOR_STEPS = (1.0, 8.0, 32.0, 64.0)
BATCH = 16  # facts computed together, which is faster: no table compares bits


def tune(lm: LanguageModel, file: Path | None, progress: Callable[[str], None], to: Path = FILE) -> dict[int, Settings]:
    """Tune all settings for each number of facts in `SIZES`; a number that the file has already is not tuned again.

    Args:
        file: CounterFact records, 2000 or more. progress: is given a line for each value that was tried.

    Raises:
        ValueError: there is no file, or it has too few records.
    """
    known = load(to)
    for size in SIZES:
        if size not in known:
            known[size] = tuned_on(lm, tuning_facts(lm, file, size), progress)
            save(known, to)
    return known


def tuning_facts(lm: LanguageModel, file: Path | None, size: int) -> tuple[Fact, ...]:
    """`size` facts that no table reports and whose packets a federation admits. Raises ValueError as `tune`."""
    if file is None or len(records := load_facts(file)) < RECORDS.stop:
        raise ValueError(
            f"settings are tuned on CounterFact records {RECORDS.start} to {RECORDS.stop - 1}: give --facts FILE."
        )
    facts = choose(records[RECORDS], shareable(lm, records[RECORDS])).facts
    mkvs = stored_mkvs(lm, facts, groups=[[i] for i in range(len(facts))], batch=BATCH)
    most = Rules.of(lm).state  # a state many times the usual size, at an attention sink, ruins an edit of all facts
    return tuple(fact for fact, mkv in zip(facts, mkvs, strict=True) if mkv.h.norm() <= most)[:size]


def asked_of(facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """The facts that a choice is made by: `ASKED` of them, or all if there are fewer."""
    return facts[:: max(1, len(facts) // ASKED)][:ASKED]


def tuned_on(lm: LanguageModel, facts: tuple[Fact, ...], progress: Callable[[str], None]) -> Settings:
    """The settings for a federation of these facts, by `asked_of` them."""
    scenario, asked = Scenario(lm, facts, second_moments(lm), batch=BATCH, by="dirichlet"), asked_of(facts)
    sizes = [len(part.facts) for part in scenario.parts]
    adapters = [lora.adapter(edit, RANK) for edit in scenario.local]

    def best(name: str, values: tuple[float, ...], edit: Callable[[float], Edit]) -> float:
        found = baselines.tuned(lm, edit, asked, values, SLACK)
        progress(f"{len(facts)} facts: {name} {found:g} of {', '.join(f'{value:g}' for value in values)}")
        return found

    return Settings(
        len(facts),
        best("lambda", LAMBDAS, lambda lam: baselines.centralised(lm, facts, scenario.mkvs, scenario.moments, lam)),
        best("step", STEPS, lambda step: baselines.fedavg(scenario.local, sizes, step)),
        best("adapter step", STEPS, lambda step: baselines.fedavg(adapters, sizes, step)),
        best("factor step", FACTOR_STEPS, lambda step: lora.average_factors(adapters, sizes, step)),
    )
