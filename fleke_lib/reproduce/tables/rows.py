"""The rows of a table: methods, each a function from a federation and its settings to what the model is asked with.

Methods that write MKVs write the same ones, except BLUE and PMET, which optimise their own. Rows with text have the
facts of all clients in one place, or read each client's; rows without have packets only. Settings of opponents are
tuned on other facts (`tables.tuning`).
"""

from collections.abc import Callable, Mapping

from fleke_lib.edit import Edit, alphaedit, pmet
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
Row = Callable[[Scenario, Settings | None], Way]  # settings may be None for a row that is not in `USES`


def averaged(setting: str | None = None, rank: int | None = None, merge: Callable[..., Edit] = baselines.fedavg) -> Row:
    """The clients' own updates, merged by the mean over facts.

    Args:
        setting: the tuned setting that is the server's step; without one the step is 1.
        rank: of the adapters that clients send instead of whole updates.
    """

    def row(scenario: Scenario, settings: Settings) -> Edit:
        step = getattr(settings, setting) if setting else 1.0
        return merge(sent(scenario, rank), [len(part.facts) for part in scenario.parts], step)

    return row


def sent(scenario: Scenario, rank: int | None) -> list[Edit]:
    """Each client's update from its own facts, whole or as an adapter of a rank."""
    return scenario.local if rank is None else [lora.adapter(edit, rank) for edit in scenario.local]


def recorded_only(scenario: Scenario, settings: Settings) -> Edit:
    """The closed form from packets with coupling 0."""
    return weights.cumulative(scenario.everyone, scenario.first, scenario.moments, coupling=0)


def unbounded(scenario: Scenario, settings: Settings) -> Edit:
    """The closed form from packets with the preset's lambda, whatever it does elsewhere."""
    return weights.cumulative(scenario.everyone, scenario.first, scenario.moments, lam=scenario.lam)


def remembered(scenario: Scenario, settings: Settings) -> Memory:
    """The memory of all packets."""
    return memory(weights.held(scenario.everyone, scenario.first))


def central(scenario: Scenario, settings: Settings) -> Edit:
    """MEMIT in one place with the tuned lambda."""
    return baselines.centralised(scenario.lm, scenario.facts, scenario.mkvs, scenario.moments, settings.memit_lam)


def with_mkvs(method: Callable) -> Row:
    """A method that writes the scenario's MKVs, with its preset."""
    return lambda scenario, settings: method(scenario.lm, scenario.facts, scenario.mkvs, scenario.moments)


def fine_tuned(method: Callable) -> Row:
    """A method that needs only facts, with its preset."""
    return lambda scenario, settings: method(scenario.lm, scenario.facts)


FEDERATED: Mapping[str, Row] = {
    "before": lambda scenario, settings: None,
    "FedEdit from vectors": lambda scenario, settings: scenario.fedit,
    "the same from whole trajectories": lambda scenario, settings: scenario.whole,
    "the same with coupling 0": recorded_only,
    "the same without a budget": unbounded,
    "memory beside the weights, from packets": remembered,
    "FedEdit as published, with text": lambda scenario, settings: scenario.as_published,
    "FedAvg, plain mean": averaged(),
    "FedAvg, tuned step": averaged("step"),
    "FedAvg of adapters, tuned step": averaged("adapter_step", RANK),
    "FedIT, mean of factors, tuned step": averaged("factor_step", RANK, lora.average_factors),
    "plain sum": lambda scenario, settings: scenario.plain_sum,
    "plain sum of adapters": lambda scenario, settings: baselines.fedsum(sent(scenario, RANK)),
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
PACKED = (
    "FedEdit from vectors",
    "the same with coupling 0",
    "the same without a budget",
    "memory beside the weights, from packets",
)
BOUNDED = ("FedEdit from vectors", "the same from whole trajectories", "the same with coupling 0")  # by a disturbance
