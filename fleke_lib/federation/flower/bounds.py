"""Rules as a file. A blind server has no model to derive them from, and a node reads them without loading its model.

The rules of a federation whose protection is *summed* also hold what its members have agreed on: the fixed point and
lambda. Such a file must be the same for everybody, as the list of members.
"""

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path

from fleke_lib.edit.closed_form import lambda_of
from fleke_lib.edit.moments import Moments
from fleke_lib.federation.fixed_point import FixedPoint
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.sealing.keys import Group
from fleke_lib.federation.summed import Scales
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.storage.files import read_json, write_json

BOUNDS = [one.name for one in fields(Rules) if one.name not in ("leverage", "budget", "slot")]
SUMMED = "summed"


@dataclass(frozen=True)
class SumRules:
    """What the members of a federation that adds up sums agree on. lam: the weight of C, as for `edit.trajectory`."""

    scales: Scales = field(repr=False)
    lam: float

    @classmethod
    def of(cls, lm: LanguageModel, rules: Rules, moments: Moments, members: int, facts: int) -> "SumRules":
        """From the model and the greatest number of facts of one member. Raises ValueError as `Scales.of`."""
        share = rules.clamp * rules.state
        return cls(Scales.of(moments, clients=members, facts=facts, share=share), lambda_of(lm.preset))


def save_rules(rules: Rules, path: Path, summed: SumRules | None = None) -> Path:
    """Write the bounds that follow from the model, without leverages and budgets; with `summed`, for summing."""
    return write_json(path, _bounds(rules) | ({} if summed is None else {SUMMED: _about(summed)}))


def load_rules(path: Path) -> Rules:
    """Read what `save_rules` wrote. Raises ValueError if the file is something else."""
    about = read_json(path)
    if not isinstance(about, dict) or set(about) - {SUMMED} != set(BOUNDS):
        raise ValueError(f"{path} does not hold rules: give the file that `save_rules` wrote.")
    return Rules(**{name: about[name] for name in BOUNDS} | {"layers": tuple(about["layers"])})


def load_sum_rules(path: Path) -> SumRules | None:
    """What `save_rules` wrote for summing; None in the rules of sealed packets.

    Raises:
        ValueError: the file is something else.
    """
    layers, about = load_rules(path).layers, read_json(path).get(SUMMED)
    if about is None:
        return None
    try:
        points = {int(layer): FixedPoint(float(most), about["clients"]) for layer, most in about["layers"].items()}
        products, lam = FixedPoint(float(about["products"]), about["clients"]), float(about["lam"])
        right = tuple(sorted(points)) == tuple(sorted(layers)) and type(about["clients"]) is int
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(f"{path} holds no fixed point for layers {[*layers]}: give the file that `save_rules` wrote.")
    return SumRules(Scales(points, products), lam)


def agreement(rules: Rules, summed: SumRules, group: Group) -> str:
    """A name that is another one as soon as rules, fixed point, lambda or list of members are others."""
    members = {name: [one.signing.hex(), one.agreement.hex()] for name, one in group.members.items()}
    both = [_bounds(rules), _about(summed), group.epoch, members]
    return hashlib.sha256(json.dumps(both, sort_keys=True).encode()).hexdigest()[:32]


def _bounds(rules: Rules) -> dict[str, object]:
    return {name: getattr(rules, name) for name in BOUNDS}


def _about(summed: SumRules) -> dict[str, object]:
    layers = {str(layer): point.largest for layer, point in summed.scales.layers.items()}
    products = summed.scales.products
    return {"clients": products.clients, "lam": summed.lam, "products": products.largest, "layers": layers}
