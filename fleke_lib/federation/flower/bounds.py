"""Rules as a file. A blind server has no model to derive them from, and a node reads them without loading its model."""

from dataclasses import fields
from pathlib import Path

from fleke_lib.federation.registry.admission import Rules
from fleke_lib.storage.files import read_json, write_json

BOUNDS = [one.name for one in fields(Rules) if one.name not in ("leverage", "budget", "slot")]


def save_rules(rules: Rules, path: Path) -> Path:
    """Write the bounds that follow from the model, without leverages and budgets."""
    return write_json(path, {name: getattr(rules, name) for name in BOUNDS})


def load_rules(path: Path) -> Rules:
    """Read what `save_rules` wrote. Raises ValueError if the file is something else."""
    about = read_json(path)
    if not isinstance(about, dict) or set(about) != set(BOUNDS):
        raise ValueError(f"{path} does not hold rules: give the file that `save_rules` wrote.")
    return Rules(**about | {"layers": tuple(about["layers"])})
