"""Sensitivity: vary one parameter, fix everything else, and measure the results again.

All MKVs are read from disk. A point therefore costs an edit and an evaluation; in sweeps of vectors only (tau,
clusters, overlap) it needs no evaluation.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from tqdm.auto import tqdm

from fleke_lib.edit import Edit, trajectory
from fleke_lib.edit.trajectories import trajectories
from fleke_lib.federation import weights
from fleke_lib.federation.relevance import found_by
from fleke_lib.federation.retrieval.policies import Cluster, Everyone, Majority, Policy
from fleke_lib.reproduce.scenarios.scenario import Scenario

Line = Mapping[str, float]


@dataclass(frozen=True)
class Sweep:
    """A sweep of one parameter.

    name: for the command line. question: that it answers. axis: the parameter. values: of the parameter.
    measure: from a scenario and a value of the parameter to one number per line. unit: of these numbers.
    """

    name: str
    question: str
    axis: str
    values: tuple[float, ...]
    measure: Callable[[Scenario, float], Line] = field(repr=False)
    unit: str = "score (0 to 1)"


@dataclass(frozen=True)
class Swept:
    """The result of a sweep: `lines[name][i]` belongs to `values[i]`."""

    name: str
    question: str
    axis: str
    unit: str
    values: tuple[float, ...]
    lines: Mapping[str, tuple[float, ...]]
    facts: int
    seconds: float

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict) -> "Swept":
        lines = {name: tuple(line) for name, line in found["lines"].items()}
        return cls(**{**found, "values": tuple(found["values"]), "lines": lines})


def sweep(what: Sweep, scenario: Scenario, values: Sequence[float] | None = None) -> Swept:
    """Measure a sweep on a scenario, at its own values or at others."""
    begin, points = time.perf_counter(), []
    values = tuple(what.values if values is None else values)
    for value in tqdm(values, desc=what.name, leave=False):
        points.append(what.measure(scenario, value))
    lines = {name: tuple(float(point[name]) for point in points) for name in points[0]}
    seconds = round(time.perf_counter() - begin, 1)
    return Swept(what.name, what.question, what.axis, what.unit, values, lines, len(scenario.facts), seconds)


def named(names: Sequence[str]) -> Iterator[Sweep]:
    """The sweeps of these names. Raises ValueError for an unknown name."""
    known = {one.name: one for one in SWEEPS}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no sweep {name!r}: give one of {', '.join(known)}.")
        yield known[name]


def by_clients(scenario: Scenario, clients: float) -> Line:
    """The score of each way to combine the edits of this number of clients."""
    other = _like(scenario, clients=int(clients))
    return {name: other.score(edit).score for name, edit in METHODS.items()}


def by_slots(scenario: Scenario, slots: float) -> Line:
    """The score on the first slot's facts after the last slot, divided by that after the first, for so many slots."""
    other = _like(scenario, clients=min(4, scenario.clients), slots=int(slots))
    run, first = other.everyone, other.first
    ends = (0, other.slots - 1)
    once = [weights.cumulative(run, first, other.moments, slot) for slot in ends]
    added = weights.sequential(run, first, other.moments, slots=ends)
    return {
        "cumulative": other.kept(once),
        "sequential, vectors only": other.kept([added[slot] for slot in ends]),
    }


def by_tau(scenario: Scenario, tau: float) -> Line:
    """Precision and recall of the published rule at this threshold, with raw and with centred MKVs."""
    found = {kind: _found(scenario, Majority(tau), kind) for kind in ("raw", "centred")}
    return {
        f"{what}, {kind}": getattr(retrieval, what)
        for what in ("precision", "recall")
        for kind, retrieval in found.items()
    }


def by_clusters(scenario: Scenario, clusters: float) -> Line:
    """Precision, recall and f1 of the `Cluster` policy with this number of clusters."""
    found = _found(scenario, Cluster(int(clusters)), "centred")
    return {what: getattr(found, what) for what in ("precision", "recall", "f1")}


def by_lambda(scenario: Scenario, lam: float) -> Line:
    """The scores of the edit from all clients' packets with this weight of C."""
    packets = weights.held(scenario.everyone, scenario.first)
    return _scores(scenario, trajectory(packets, scenario.moments, lam))


def by_layers(scenario: Scenario, layers: float) -> Line:
    """The scores with this number of the preset's last layers, from uncompressed trajectories."""
    paths = trajectories(scenario.lm, scenario.facts, scenario.mkvs, layers=scenario.lm.preset.layers[-int(layers) :])
    return _scores(scenario, trajectory(paths, scenario.moments, scenario.lam))


def by_facts(scenario: Scenario, share: float) -> Line:
    """The scores with this share of the facts."""
    other = _like(scenario, facts=scenario.facts[:: round(1 / share)], slots=1)
    return {
        "FedEdit from vectors": other.score("fedit").score,
        "FedEdit from vectors, top-1": other.score("fedit").top1,
        "central": other.score("central").score,
        "central, top-1": other.score("central").top1,
    }


def by_overlap(scenario: Scenario, overlap: float) -> Line:
    """The shares of wanted edits that are optimised and that are reused, at this overlap."""
    ledger = scenario.run(Everyone(), overlap=overlap).ledger
    reused, made = (len(ledger.select(kind)) for kind in ("reused", "optimised"))
    return {"optimised": made / (made + reused), "reused": reused / (made + reused)}


METHODS = {"FedEdit from vectors": "fedit", "plain mean": "fedavg", "plain sum": "plain_sum", "last client": "last"}
SWEEPS: tuple[Sweep, ...] = (
    Sweep("clients", "What do more clients cost?", "clients", (2, 4, 8, 16), by_clients),
    Sweep(
        "slots",
        "What is left of the first slot's facts?",
        "slots",
        (1, 2, 5, 10, 20),
        by_slots,
        "score kept (1 is all)",
    ),
    Sweep(
        "tau",
        "What does the published rule adopt?",
        "threshold tau",
        tuple(i / 10 for i in range(10)),
        by_tau,
        "precision and recall (0 to 1)",
    ),
    Sweep(
        "clusters",
        "How many clusters?",
        "clusters",
        (2, 4, 8, 12, 16, 24),
        by_clusters,
        "precision, recall, f1 (0 to 1)",
    ),
    Sweep(
        "lambda", "How much weight for C?", "lambda", (10, 30, 100, 300, 1000, 3000), by_lambda, "score, top-1 (0 to 1)"
    ),
    Sweep("layers", "How many layers?", "edited layers", (1, 2, 3, 4, 5, 6), by_layers, "score, top-1 (0 to 1)"),
    Sweep("facts", "How many facts?", "share of the facts", (0.125, 0.25, 0.5, 1.0), by_facts, "score, top-1 (0 to 1)"),
    Sweep(
        "overlap",
        "What does reuse save?",
        "share of wishes that others had before",
        (0.0, 0.2, 0.4, 0.6, 0.8),
        by_overlap,
        "share of all wishes (0 to 1)",
    ),
)


def _like(scenario: Scenario, **changes) -> Scenario:
    """The scenario with some fields changed; it uses the same provider, so nothing is computed again."""
    other = replace(scenario, **changes)
    other.__dict__["provider"] = scenario.provider
    return other


def _scores(scenario: Scenario, edit: Edit) -> Line:
    found = scenario.asked(edit)
    return {"score": found.score, "top-1": found.top1}


def _found(scenario: Scenario, policy: Policy, representation: str):
    return found_by(policy, scenario.parts, dict(zip(scenario.facts, scenario.mkvs, strict=True)), representation)
