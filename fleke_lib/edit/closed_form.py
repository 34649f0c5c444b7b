"""The closed-form edit: computed from trajectories alone, without a model and without text."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.moments import Moments, check_finite
from fleke_lib.facts.fact import warn_of_repeats
from fleke_lib.model import shipped
from fleke_lib.model.presets import PRESETS, Preset
from fleke_lib.ridge.solve import LowRank
from fleke_lib.ridge.sums import Contribution, Sums, factors, sums


def lambda_of(preset: Preset) -> float:
    """The weight of C in the closed form for a model: its preset's if it was measured, otherwise MEMIT's for it.

    Only the default model's is measured. MEMIT's lambda is the only one with a source for the others, and it has the
    same unit: both solve `lam C` plus a sum over facts whose context weights add up to one. On the default model the
    best lambda of the closed form is a tenth of MEMIT's.
    """
    return preset.memit.lam if preset.trajectory_lam is None else preset.trajectory_lam


LAMBDA = lambda_of(PRESETS[shipped.NAME.lower()])  # the default model's, which is measured


def trajectory(
    contributions: Sequence[Contribution],
    moments: Moments,
    lam: float = LAMBDA,
    device: torch.device | str | None = None,
) -> Edit:
    """The edit that maps each fact's keys to its shares: one ridge regression per layer.

        dW_l = T_l (lam C_l + S_l)^-1        S_l, T_l: see `fleke_lib.ridge.sums`

    The order of the contributions changes the result in its last bits only; keep one order where bits matter. Layers
    are solved one after the other: a GPU has memory for one layer's system (2 GB for GPT-J), not for all.

    Args:
        contributions: trajectories, or packets that carry them.
        moments: C of each edited layer, `{layer: (d_mlp, d_mlp)}`.
        lam: the weight of C; by default the default model's. Vectors do not show which model they are from, so for
            another one give `closed_form.lambda_of(lm.preset)`, as `federation.weights` does.
        device: where a layer's vectors and its C are moved to be solved, and the edit is moved back; by default where
            the vectors are. On the CPU the bits are the same either way.

    Raises:
        ValueError: there are no contributions, they are from several models or have different layers, or a layer's C
            is missing, or vectors or C have entries that are not finite.
    """
    layers = check_contributions(contributions, moments)
    home = contributions[0].shares[layers[0]]
    dense = len(contributions) > len(home)  # factors of rank > d_model are larger than dW
    changes: dict[int, LowRank] = {}
    for layer in layers:
        moment = moments[layer].to(device=device)
        if dense:
            solved = LowRank.of(sums(contributions, layer, device).solve(moment, lam))
        else:
            solved = factors(contributions, layer, moment, lam, device)
        changes[layer] = solved.to(home.device)
    return Edit(changes, contributions[0].fingerprint, "trajectory", {"facts": str(len(contributions))})


def from_sums(
    totals: Mapping[int, Sums],
    moments: Moments,
    fingerprint: str,
    lam: float = LAMBDA,
) -> Edit:
    """The same edit from each layer's S and T, which may be added up elsewhere, for instance by a server.

    Args:
        totals: S and T of each edited layer.
        moments, lam: as for `trajectory`.
        fingerprint: of the base model that the contributions were computed on.

    Raises:
        ValueError: the system of a layer, `lam C + S`, is singular.
    """
    changes = {layer: LowRank.of(total.solve(moments[layer], lam)) for layer, total in totals.items()}
    return Edit(changes, fingerprint, "trajectory")


def check_contributions(contributions: Sequence[Contribution], moments: Mapping[int, Tensor]) -> tuple[int, ...]:
    """The layers that all contributions have in common; warns if the tags of packets show a repeated question.

    Raises ValueError as `trajectory`.
    """
    if not contributions:
        raise ValueError("there are no contributions to edit with: give at least one trajectory or packet.")
    if len({contribution.fingerprint for contribution in contributions}) > 1:
        raise ValueError("these contributions were computed on several models: give contributions from one model.")
    tagged = [one for one in contributions if hasattr(one, "question") and hasattr(one, "answer")]
    warn_of_repeats([(one.question[:12], one.answer) for one in tagged], stacklevel=3)
    kinds = {tuple(sorted(contribution.shares)) for contribution in contributions}
    if len(kinds) > 1:
        raise ValueError(
            f"these contributions have different layers ({sorted(kinds)}): give contributions with the same layers."
        )
    (layers,) = kinds
    shares = torch.stack([torch.stack([one.shares[layer] for layer in layers]) for one in contributions])
    if not shares.isfinite().all():
        bad = int((~shares.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"contribution {bad} has shares that are not finite numbers: leave it out, or compute it again."
        )
    if missing := set(layers) - set(moments):
        raise ValueError(f"moments has no C for layer {min(missing)}: give second_moments(lm, layers={layers}).")
    check_finite(moments, layers)
    return layers
