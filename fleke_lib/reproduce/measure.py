"""Measure the claims, those of the papers and our own, on several seeds.

An interrupted run resumes: a claim that the file already holds, measured under the same conditions and in the same way
(`how`), is not measured again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fleke_lib.course.scale import NAMES, VARIABLE, Scale, scale
from fleke_lib.edit.moments import second_moments
from fleke_lib.model.language_model import LanguageModel, load_model
from fleke_lib.reproduce.claims import Claim, findings, judged
from fleke_lib.reproduce.own import OURS
from fleke_lib.reproduce.private import PRIVATE
from fleke_lib.reproduce.published import PUBLISHED
from fleke_lib.reproduce.record import FOLDER, Conditions, Record, spliced
from fleke_lib.reproduce.scenarios.sampling import held_out, samples
from fleke_lib.reproduce.scenarios.scenario import Scenario
from fleke_lib.storage.files import user_path, write_text

CLAIMS: tuple[Claim, ...] = PUBLISHED + OURS + PRIVATE


def at(size: Scale, claims: Sequence[Claim] = CLAIMS) -> tuple[Claim, ...]:
    """The claims as measured at this scale: below full scale, an identity is measured on one seed only."""
    return tuple(replace(claim, seeds=1) if claim.identity and size.name != "full" else claim for claim in claims)


def scenarios(lm: LanguageModel, size: Scale) -> list[Scenario]:
    """The scenarios that claims are measured on at this scale, one per seed."""
    facts, clients, slots, seeds = size.pick(smoke=(12, 3, 2, 1), lesson=(16, 4, 3, 3), full=(96, 8, 10, 3))
    drawn, moments = samples(lm, held_out(), facts, seeds), second_moments(lm)
    return [Scenario(lm, own, moments, seed, clients, slots) for seed, own in enumerate(drawn)]


def named(names: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of these names. Raises ValueError for an unknown name."""
    known = {claim.name: claim for claim in CLAIMS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no claim {unknown[0]!r}: give some of {', '.join(known)}.")
    return tuple(known[name] for name in names)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `claims`."""
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these claims (all)")
    parser.add_argument("--scale", choices=NAMES, help=f"how large ({VARIABLE}, else lesson)")
    parser.add_argument("--to", type=user_path, metavar="FOLDER", help="keep claims.json there, and go on from it")
    parser.add_argument(
        "--readme", type=user_path, metavar="FILE", help="measure nothing; put the kept table in this text"
    )
    parser.add_argument(
        "--judge", action="store_true", help="measure nothing; judge the kept values by the claims as they are now"
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure claims and print each when it is done, or put the table of the last record into a text."""
    file = (arguments.to or FOLDER) / "claims.json"
    if arguments.judge:
        today(Record.load(file)).save(file)
    if arguments.readme:
        write_text(arguments.readme, spliced(arguments.readme.read_text(encoding="utf-8"), Record.load(file)))
    if arguments.judge or arguments.readme:
        return 0
    size = Scale(arguments.scale) if arguments.scale else scale()
    wanted = at(size, named(arguments.only) if arguments.only else CLAIMS)
    asked = scenarios(load_model(), size)
    conditions = Conditions.of(asked, size.name)
    known = _known(file, conditions) if arguments.to else {}
    for found in findings([claim for claim in wanted if claim.name not in known], asked):
        known[found.name] = found
        print(f"{found.name:<20} {found.verdict:<18} {found.mean:10.4g}  {found.seconds:7.1f} s", flush=True)
        if arguments.to:
            Record(conditions, tuple(known[c.name] for c in CLAIMS if c.name in known)).save(file)
    return 0


def _known(file: Path, conditions: Conditions) -> dict:
    if not file.exists():
        return {}
    record = Record.load(file)
    if record.conditions != conditions:
        print(f"{file} was measured under other conditions and is measured again", file=sys.stderr)
        return {}
    return {found.name: found for found in today(record).findings if found.verdict != "to be measured"}


def today(record: Record) -> Record:
    """The record with every claim as it is now: its words, and its verdict from the recorded values.

    A claim that the record lacks, or that was measured in another way (`how`), is to be measured.
    """
    kept = {(found.name, found.how): found for found in record.findings}
    now = [(claim, kept.get((claim.name, claim.how))) for claim in CLAIMS]
    found = [judged(claim, old.values if old else (), old.seconds if old else 0.0) for claim, old in now]
    return replace(record, findings=tuple(found))
