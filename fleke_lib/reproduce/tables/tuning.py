"""Opponents are tuned as well as our own method is: by their score on facts that no table reports.

The facts are CounterFact records 1000 to 1255. For more of them, atlas facts are edited along and not asked: they make
the edit dense, and no setting is chosen by how they answer.
"""

from collections.abc import Callable
from pathlib import Path

from fleke_lib.edit import Edit
from fleke_lib.edit.moments import second_moments
from fleke_lib.edit.trajectories import shareable
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation import baselines, lora
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.reproduce.papers.parts import choose
from fleke_lib.reproduce.scenarios.scenario import Scenario
from fleke_lib.reproduce.tables.rows import RANK
from fleke_lib.reproduce.tables.settings import FILE, Settings, load, save

ASKED = slice(1000, 1256)  # CounterFact records
SIZES = (100, 480, 840)  # facts in the edit; those beyond the asked ones are of the atlas
LAMBDAS = (300.0, 1000.0, 3000.0)
STEPS = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0)  # of the server, for updates and for adapters
FACTOR_STEPS = (1.0, 8.0, 32.0, 64.0)
BATCH = 16  # facts computed together, which is faster: no table compares bits


def tune(lm: LanguageModel, file: Path | None, progress: Callable[[str], None], to: Path = FILE) -> dict[int, Settings]:
    """Tune all settings for each number of facts in `SIZES`; a number that the file has already is not tuned again.

    Args:
        file: CounterFact records, 1256 or more. progress: is given a line for each value that was tried.

    Raises:
        ValueError: there is no file, or it has too few records.
    """
    known = load(to)
    for size in SIZES:
        if size not in known:
            known[size] = tuned_on(lm, *tuning_facts(lm, file, size), progress)
            save(known, to)
    return known


def tuning_facts(lm: LanguageModel, file: Path | None, size: int) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    """`size` facts to edit, and those of them that are asked. Raises ValueError as `tune`."""
    if file is None or len(records := load_facts(file)) < ASKED.stop:
        raise ValueError(f"settings are tuned on CounterFact records {ASKED.start} to {ASKED.stop}: give --facts FILE.")
    asked = choose(records[ASKED], shareable(lm, records[ASKED])).facts
    others = choose(atlas := load_facts("atlas"), shareable(lm, atlas)).facts
    return (*asked, *others)[:size], asked[:size]


def tuned_on(
    lm: LanguageModel, facts: tuple[Fact, ...], few: tuple[Fact, ...], progress: Callable[[str], None]
) -> Settings:
    """The settings with the greatest score on some of these facts, all of which are edited."""
    scenario = Scenario(lm, facts, second_moments(lm), batch=BATCH, by="dirichlet")
    sizes = [len(part.facts) for part in scenario.parts]
    adapters = [lora.adapter(edit, RANK) for edit in scenario.local]

    def best(name: str, values: tuple[float, ...], edit: Callable[[float], Edit]) -> float:
        found = baselines.tuned(lm, edit, few[::2], values)  # half of them: a choice among a few values needs no more
        progress(f"{len(facts)} facts: {name} {found:g} of {', '.join(f'{value:g}' for value in values)}")
        return found

    return Settings(
        len(facts),
        best("lambda", LAMBDAS, lambda lam: baselines.centralised(lm, facts, scenario.mkvs, scenario.moments, lam)),
        best("step", STEPS, lambda step: baselines.fedavg(scenario.local, sizes, step)),
        best("adapter step", STEPS, lambda step: baselines.fedavg(adapters, sizes, step)),
        best("factor step", FACTOR_STEPS, lambda step: lora.average_factors(adapters, sizes, step)),
    )
