"""The rows of a table: methods, each a function from a federation and its settings to what the model is asked with.

All methods write the same MKVs. Rows with text have the facts of all clients in one place, or read each client's; rows
without have packets only. Settings of opponents are tuned on other facts (`tables.tuning`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fleke_lib.edit import Edit, alphaedit, pmet, trajectory
from fleke_lib.edit.blue import blue
from fleke_lib.edit.emmet import emmet
from fleke_lib.edit.finetune import finetune
from fleke_lib.edit.locft_bf import locft_bf
from fleke_lib.edit.memory import Memory, memory
from fleke_lib.evaluation.in_context import TextMemory
from fleke_lib.federation import baselines, lora, weights
from fleke_lib.reproduce.scenarios.scenario import Scenario
from fleke_lib.reproduce.tables.settings import Settings

RANK = 8  # of an adapter, the usual one for LoRA
Way = Edit | Memory | TextMemory | None  # how the model is asked: None is the base model
Row = Callable[[Scenario, Settings], Way]


@dataclass(frozen=True)
class Sizes:
    """The clients' updates with the numbers of their facts, which FedAvg weighs them by."""

    edits: list[Edit]
    facts: list[int]

    @classmethod
    def of(cls, scenario: Scenario, rank: int | None = None) -> "Sizes":
        """The updates of each client alone, or these as adapters of a rank."""
        edits = scenario.local if rank is None else [lora.adapter(edit, rank) for edit in scenario.local]
        return cls(edits, [len(part.facts) for part in scenario.parts])


def from_packets(scenario: Scenario, settings: Settings) -> Edit:
    return scenario.fedit


def recorded_only(scenario: Scenario, settings: Settings) -> Edit:
    return weights.cumulative(scenario.everyone, scenario.first, scenario.moments, coupling=0)


def whole(scenario: Scenario, settings: Settings) -> Edit:
    return trajectory(scenario.paths, scenario.moments, scenario.lam)


def plain_mean(scenario: Scenario, settings: Settings) -> Edit:
    updates = Sizes.of(scenario)
    return baselines.fedavg(updates.edits, updates.facts)


def tuned_mean(scenario: Scenario, settings: Settings) -> Edit:
    updates = Sizes.of(scenario)
    return baselines.fedavg(updates.edits, updates.facts, settings.step)


def mean_of_adapters(scenario: Scenario, settings: Settings) -> Edit:
    updates = Sizes.of(scenario, RANK)
    return baselines.fedavg(updates.edits, updates.facts, settings.adapter_step)


def sum_of_adapters(scenario: Scenario, settings: Settings) -> Edit:
    return baselines.fedsum(Sizes.of(scenario, RANK).edits)


def mean_of_factors(scenario: Scenario, settings: Settings) -> Edit:
    updates = Sizes.of(scenario, RANK)
    return lora.average_factors(updates.edits, updates.facts, settings.factor_step)


def central(scenario: Scenario, settings: Settings) -> Edit:
    return baselines.centralised(scenario.lm, scenario.facts, scenario.mkvs, scenario.moments, settings.memit_lam)


def with_mkvs(method: Callable) -> Row:
    return lambda scenario, settings: method(scenario.lm, scenario.facts, scenario.mkvs, scenario.moments)


def fine_tuned(method: Callable) -> Row:
    return lambda scenario, settings: method(scenario.lm, scenario.facts)


FEDERATED: Mapping[str, Row] = {
    "before": lambda scenario, settings: None,
    "FedEdit from vectors": from_packets,
    "the same from whole trajectories": whole,
    "the same with coupling 0": recorded_only,
    "memory beside the weights, from packets": lambda scenario, settings: memory(
        weights.held(scenario.everyone, scenario.first)
    ),
    "FedEdit as published, with text": lambda scenario, settings: scenario.as_published,
    "FedAvg, plain mean": plain_mean,
    "FedAvg, tuned step": tuned_mean,
    "FedAvg of adapters, tuned step": mean_of_adapters,
    "FedIT, mean of factors, tuned step": mean_of_factors,
    "plain sum": lambda scenario, settings: scenario.plain_sum,
    "plain sum of adapters": sum_of_adapters,
    "last client": lambda scenario, settings: scenario.last,
}
CENTRAL: Mapping[str, Row] = {
    "MEMIT in one place, with text": central,
    "MEMIT, the preset's lambda": lambda scenario, settings: scenario.central,
    "EMMET": with_mkvs(emmet),
    "BLUE": lambda scenario, settings: blue(scenario.lm, scenario.facts, scenario.moments),
    "AlphaEdit": with_mkvs(alphaedit),
    "PMET": lambda scenario, settings: pmet(scenario.lm, scenario.facts, scenario.pmet_mkvs, scenario.moments),
    "FT-L": fine_tuned(finetune),
    "LocFT-BF": fine_tuned(locft_bf),
    "the fact as text in the prompt": lambda scenario, settings: TextMemory(scenario.facts),
}
ROWS: Mapping[str, Row] = {**FEDERATED, **CENTRAL}
USES: Mapping[str, tuple[str, ...]] = {
    "FedAvg, tuned step": ("step",),
    "FedAvg of adapters, tuned step": ("adapter_step",),
    "FedIT, mean of factors, tuned step": ("factor_step",),
    "MEMIT in one place, with text": ("memit_lam",),
}  # the settings that a row depends on
PACKED = ("FedEdit from vectors", "the same with coupling 0", "memory beside the weights, from packets")
