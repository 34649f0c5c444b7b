"""What a row of a table found: measured once and kept, so that an interrupted table goes on where it was."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from fleke_lib.edit import Edit
from fleke_lib.edit.disturbance import BUDGET
from fleke_lib.evaluation.harm import HarmReference, prepare_harm
from fleke_lib.evaluation.in_context import TextMemory, evaluate_with_text
from fleke_lib.evaluation.metrics import evaluate
from fleke_lib.evaluation.results import Evaluation
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.reproduce.papers.pieces import digest
from fleke_lib.reproduce.scenarios.scenario import Scenario
from fleke_lib.reproduce.tables.rows import BOUNDED, PACKED, ROWS, USES, Way
from fleke_lib.reproduce.tables.settings import Settings
from fleke_lib.storage.files import read_json, write_json

FORMAT = "fleke-row-1"  # another one when a method or a measurement changes: rows are then measured again
COLUMNS = ("efficacy", "top1", "paraphrase", "specificity", "score")
KEPT = ("efficacy", "top1", "paraphrase", "specificity")  # per fact; a score is computed from these


@dataclass(frozen=True)
class RowResult:
    """One row: `per_fact` has the columns of `KEPT`, harm the numbers of `Harm`; seconds by step.

    conditions: the digest of everything that the row depends on.
    """

    name: str
    conditions: str
    per_fact: Mapping[str, list[float | None]] = field(repr=False)
    harm: Mapping[str, float | list[float]]
    seconds: Mapping[str, float]

    def evaluation(self, scenario: Scenario) -> Evaluation:
        """The measured columns, to be compared in pairs."""
        columns = {name: np.array(values, dtype=float) for name, values in self.per_fact.items()}
        return Evaluation(scenario.facts, columns)


@dataclass(frozen=True, eq=False)
class Bench:
    """A federation, the settings of opponents (None if no row needs them), and the folder where rows are kept."""

    scenario: Scenario
    settings: Settings | None
    folder: Path

    @cached_property
    def harm(self) -> HarmReference:
        return prepare_harm(self.scenario.lm)

    def conditions(self, row: str) -> str:
        """A digest of all data and settings that a row depends on; `FORMAT` stands for the code."""
        one, lm = self.scenario, self.scenario.lm
        facts = [asdict(fact) for fact in one.facts]
        settings = {name: getattr(self.settings, name) for name in USES.get(row, ())}
        settings |= {"compression": asdict(Compression())} if row in PACKED else {}
        settings |= {"budget": BUDGET} if row in BOUNDED else {}
        federation = (one.clients, one.slots, one.by, one.seed, one.batch, one.lam)
        return digest(FORMAT, lm.fingerprint(lm.preset.layers), asdict(lm.preset), facts, federation, settings)

    def row(self, name: str) -> RowResult:
        """A row, read from the folder if it is there for the same conditions, otherwise measured and kept."""
        path, conditions = self.folder / f"{_slug(name)}.json", self.conditions(name)
        if path.exists() and (known := RowResult(**read_json(path))).conditions == conditions:
            return known
        begin = time.perf_counter()
        way = ROWS[name](self.scenario, self.settings)
        solved = time.perf_counter()
        found = self.ask(way)
        seconds = {"edit": solved - begin, "evaluation": time.perf_counter() - solved}
        values = {n: [None if np.isnan(v) else round(float(v), 6) for v in found.per_fact[n]] for n in KEPT}
        harm = found.harm.to_dict() if found.harm else {}
        write_json(path, asdict(RowResult(name, conditions, values, harm, seconds)))
        return RowResult(**read_json(path))

    def ask(self, way: Way) -> Evaluation:
        """The evaluation of all facts, with harm where a model is changed."""
        lm, facts = self.scenario.lm, self.scenario.facts
        if isinstance(way, TextMemory):
            return evaluate_with_text(lm, facts, way)
        low = isinstance(way, Edit) and min(way.layers) < lm.preset.layers[0]
        prepared, reference = (None, None) if low else (self.scenario.prepared, self.harm)
        with way.applied(lm) if way else nullcontext():
            return evaluate(lm, facts, prepared=prepared, harm=reference)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
