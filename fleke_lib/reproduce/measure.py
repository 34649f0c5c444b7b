"""Measure the claims, those of the papers and our own, on several seeds.

An interrupted run resumes: a claim that the file already holds, measured under the same conditions, is not measured
again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fleke_lib.course.scale import NAMES, VARIABLE, Scale, scale
from fleke_lib.edit.moments import second_moments
from fleke_lib.facts.loading import load_facts
from fleke_lib.model.language_model import LanguageModel, load_model
from fleke_lib.reproduce.claims import Claim, findings
from fleke_lib.reproduce.own import OURS
from fleke_lib.reproduce.published import PUBLISHED
from fleke_lib.reproduce.record import FOLDER, Conditions, Record, spliced
from fleke_lib.reproduce.scenario import Scenario, draw
from fleke_lib.storage.files import user_path, write_text

CLAIMS: tuple[Claim, ...] = PUBLISHED + OURS
TUNED_ON = 111  # the atlas's first facts, used to choose layers and lambda; no claim is measured on them


def at(size: Scale, claims: Sequence[Claim] = CLAIMS) -> tuple[Claim, ...]:
    """The claims as measured at this scale: below full scale, an identity is measured on one seed only."""
    return tuple(replace(claim, seeds=1) if claim.identity and size.name != "full" else claim for claim in claims)


def scenarios(lm: LanguageModel, size: Scale) -> list[Scenario]:
    """The scenarios that claims are measured on at this scale, one per seed."""
    facts, clients, slots, seeds = size.pick(smoke=(12, 3, 2, 1), lesson=(16, 4, 3, 3), full=(80, 8, 10, 3))
    rest, moments = load_facts("atlas")[TUNED_ON:], second_moments(lm)
    return [Scenario(lm, draw(lm, rest, facts, seed), moments, seed, clients, slots) for seed in range(seeds)]


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


def main(arguments: argparse.Namespace) -> int:
    """Measure claims and print each when it is done, or put the table of the last record into a text."""
    file = (arguments.to or FOLDER) / "claims.json"
    if arguments.readme:
        write_text(arguments.readme, spliced(arguments.readme.read_text(encoding="utf-8"), Record.load(file)))
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
    return {found.name: found for found in record.findings}
