"""Measure sensitivity to clients, slots, tau, clusters, lambda, layers, facts and overlap, one at a time."""

import argparse
import json
from pathlib import Path

from fleke_lib.course.scale import NAMES, VARIABLE, Scale, scale
from fleke_lib.edit.moments import second_moments
from fleke_lib.model.language_model import LanguageModel, load_model
from fleke_lib.reproduce.record import FOLDER
from fleke_lib.reproduce.scenarios.sampling import draw, held_out
from fleke_lib.reproduce.scenarios.scenario import Scenario
from fleke_lib.reproduce.sweeps import SWEEPS, Swept, named, sweep
from fleke_lib.storage.files import half_made, read_json, user_path


def scenario(lm: LanguageModel, size: Scale) -> Scenario:
    """The scenario whose parameters are varied one at a time: large enough for 16 clients, or 4 with 20 slots."""
    facts, clients, slots = size.pick(smoke=(16, 4, 2), lesson=(80, 8, 5), full=(80, 8, 5))
    return Scenario(lm, draw(lm, held_out(), facts, 0), second_moments(lm), 0, clients, slots)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sweep`."""
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(one.name for one in SWEEPS)} (all)")
    parser.add_argument("--scale", choices=NAMES, help=f"how many facts ({VARIABLE}, else lesson)")
    parser.add_argument("--to", type=user_path, metavar="FOLDER", help="keep sweeps.json there, and go on from it")


def main(arguments: argparse.Namespace) -> int:
    """Measure sweeps, and print each when it is done."""
    size = Scale(arguments.scale) if arguments.scale else scale()
    here = scenario(load_model(), size)
    file = arguments.to and arguments.to / "sweeps.json"
    known = {swept.name: swept for swept in load(file) if swept.facts == len(here.facts)} if file else {}
    for what in named(arguments.only or [one.name for one in SWEEPS]):
        if what.name in known:
            continue
        known[what.name] = found = sweep(what, here)
        print(f"{found.question} ({found.axis}: {', '.join(f'{v:g}' for v in found.values)}; {found.seconds} s)")
        for name, line in found.lines.items():
            print(f"  {name:<28}" + "  ".join(f"{value:.3f}" for value in line), flush=True)
        if file:
            save([known[one.name] for one in SWEEPS if one.name in known], file)
    return 0


def load(file: Path = FOLDER / "sweeps.json") -> list[Swept]:
    """The sweeps of a file; an empty list if there is no file."""
    return [Swept.from_dict(found) for found in read_json(file)] if file.exists() else []


def save(found: list[Swept], file: Path) -> Path:
    """Write sweeps as one JSON file, atomically."""
    with half_made(file) as half:
        half.write_text(json.dumps([swept.to_dict() for swept in found], indent=1) + "\n", encoding="utf-8")
    return file
