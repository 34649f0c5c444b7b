"""The record of the last reproduction: one JSON file, and the table made from it.

python -m fleke_lib.reproduce claims --scale full --to data/reproduction    measures, and writes claims.json
python -m fleke_lib.reproduce claims --readme README.md                     puts the table of that file in a text
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from fleke_lib.reproduce.claims import Finding, plain
from fleke_lib.reproduce.scenarios import sampling
from fleke_lib.reproduce.scenarios.scenario import Scenario
from fleke_lib.storage.files import DATA, part_of_repository, user_path, write_json

FOLDER = DATA / "reproduction"
BEGIN, END = "<!-- claims: made by fleke_lib.reproduce, edit nothing here -->", "<!-- end of claims -->"
HEAD = ("claim", "name", "source", "measured", "asked", "")


@dataclass(frozen=True)
class Conditions:
    """The conditions of a reproduction; findings under different conditions are never mixed.

    shared: facts that more than one seed has. sample: digest of the facts of all seeds.
    """

    model: str
    fingerprint: str
    scale: str
    facts: int
    clients: int
    slots: int
    seeds: int
    shared: int
    sample: str
    threads: int
    python: str
    torch: str
    transformers: str

    @classmethod
    def of(cls, scenarios: Sequence[Scenario], scale: str) -> "Conditions":
        one, samples = scenarios[0], [scenario.facts for scenario in scenarios]
        return cls(
            one.lm.name,
            one.lm.fingerprint(one.lm.preset.layers),
            scale,
            len(one.facts),
            one.clients,
            one.slots,
            len(scenarios),
            sampling.shared(samples),
            sampling.digest(samples),
            torch.get_num_threads(),
            platform.python_version(),
            version("torch"),
            version("transformers"),
        )

    def __str__(self) -> str:
        apart = f"{self.shared} of them in more than one seed" if self.shared else "none of them in two seeds"
        return (
            f"{self.model}, {self.seeds} seeds, each with {self.facts} facts ({apart}), {self.clients} clients and "
            f"{self.slots} slots; Python {self.python}, torch {self.torch}, {self.threads} threads"
        )


@dataclass(frozen=True)
class Record:
    """Findings, and the conditions under which they were measured."""

    conditions: Conditions
    findings: tuple[Finding, ...]

    @property
    def seconds(self) -> float:
        return sum(finding.seconds for finding in self.findings)

    def save(self, path: Path) -> Path:
        findings = [finding.to_dict() for finding in self.findings]
        return write_json(path, {"conditions": asdict(self.conditions), "findings": findings})

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Read what `save` wrote. Raises ValueError if the file is not a record."""
        if path.is_relative_to(FOLDER):
            part_of_repository(path)
        try:
            whole = json.loads(user_path(path).read_text(encoding="utf-8"))
            return cls(
                Conditions(**whole["conditions"]), tuple(Finding.from_dict(found) for found in whole["findings"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a record of claims ({error}): measure them with `claims --to`.") from None

    def _repr_markdown_(self) -> str:
        return table(self.findings)


def table(findings: Sequence[Finding]) -> str:
    """The findings as a Markdown table, which includes every claim, whatever its verdict."""
    rows = [HEAD, ("---",) * len(HEAD), *map(_row, findings)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def spliced(text: str, record: Record) -> str:
    """The text with the record's table and conditions inserted between its two marks.

    Raises:
        ValueError: the text has not exactly one pair of marks.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(
            f"the text needs one line {BEGIN!r} and, after it, one line {END!r}: put them where it belongs."
        )
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    minutes = f"{record.seconds / 60:.0f} minutes"
    return f"{before}{BEGIN}\n{table(record.findings)}\n\nMeasured on {record.conditions}, in {minutes}.\n{after}"


def _row(found: Finding) -> tuple[str, ...]:
    low, high = found.interval
    apart = len(found.values) > 1 and low < high
    measured = plain(found.mean) + (f" [{plain(low)}, {plain(high)}]" if apart else "") if found.values else ""
    sentence = f"{found.sentence} ({found.how})" if found.verdict == "not testable here" else found.sentence
    return sentence, f"`{found.name}`", found.source, measured, found.bound, found.verdict
