"""What opponents are tuned to, by the number of facts: chosen on facts that no table reports, and kept in a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from fleke_lib.storage.files import DATA, read_json, write_json

FILE = DATA / "reproduction" / "tuned.json"


@dataclass(frozen=True)
class Settings:
    """The settings of opponents for one number of facts.

    facts: that they were tuned on. memit_lam: MEMIT's lambda. step, adapter_step, factor_step: the server's step for
    FedAvg, for FedAvg of adapters and for the product of mean factors.
    """

    facts: int
    memit_lam: float
    step: float
    adapter_step: float
    factor_step: float


def settings_for(facts: int, path: Path = FILE) -> Settings:
    """The settings that were tuned on the number of facts nearest to this one, by ratio.

    Raises:
        ValueError: nothing was tuned yet.
    """
    known = load(path)
    if not known:
        raise ValueError(f"{path} has no settings: tune the opponents first, with `tables --tune`.")
    return min(known.values(), key=lambda one: max(one.facts / facts, facts / one.facts))


def load(path: Path = FILE) -> dict[int, Settings]:
    """All settings in a file, by number of facts; none if there is no file."""
    if not path.exists():
        return {}
    names = {one.name for one in fields(Settings)}
    return {int(n): Settings(**{k: v for k, v in one.items() if k in names}) for n, one in read_json(path).items()}


def save(settings: Mapping[int, Settings], path: Path = FILE) -> Path:
    """Write all settings, by number of facts, in place of those that the file has."""
    return write_json(path, {str(n): asdict(one) for n, one in sorted(settings.items())})
