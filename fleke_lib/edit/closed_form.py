"""The closed-form edit: computed from trajectories alone, without a model and without text."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fleke_lib.edit.coupled import Asked, Delivery, layer_by_layer
from fleke_lib.edit.edit import Edit
from fleke_lib.edit.moments import Moments, check_finite
from fleke_lib.facts.fact import warn_of_repeats
from fleke_lib.model import shipped
from fleke_lib.model.presets import PRESETS, Preset
from fleke_lib.ridge.solve import LowRank, spd_solve
from fleke_lib.ridge.sums import Contribution, Sums


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
    *,
    coupling: float | None = None,
) -> Edit:
    """The edit that maps each fact's keys to its shares: one ridge regression per layer, from below.

        dW_l = T_l (lam C_l + S_l)^-1        S_l, T_l: see `fleke_lib.edit.coupled` and `fleke_lib.ridge.sums`

    The order of the contributions changes the result in its last bits only; keep one order where bits matter. Layers
    are solved one after the other: a GPU has memory for one layer's system (2 GB for GPT-J), not for all.

    Args:
        contributions: trajectories, or packets that carry them.
        moments: C of each edited layer, `{layer: (d_mlp, d_mlp)}`.
        lam: the weight of C; by default the default model's. Vectors do not show which model they are from, so for
            another one give `closed_form.lambda_of(lm.preset)`, as `federation.weights` does.
        device: where a layer's vectors and its C are moved to be solved, and the edit is moved back; by default where
            the vectors are. On the CPU the bits are the same either way.
        coupling: how far a layer is solved for what the layers below deliver: 1 for what they really deliver, 0 for the
            recorded keys and shares, as if every share were delivered. By default 1 if all contributions carry base
            keys, otherwise 0.

    Raises:
        ValueError: there are no contributions, they are from several models or have different layers, or a layer's C
            is missing, or vectors or C have entries that are not finite; or coupling is not from 0 to 1, or is not 0
            and there are no base keys.
    """
    check_contributions(contributions, moments)
    party = Delivery.start(contributions, coupling_of(contributions, coupling), device)
    home, few = contributions[0].residual, len(contributions) <= len(contributions[0].residual)

    def solve(layer: int, asked: Sequence[Asked]) -> LowRank:
        (own,), moment = asked, moments[layer].to(device=device)
        if not few:  # factors of rank > d_model are larger than dW
            return LowRank.of(own.sums().solve(moment, lam))
        return LowRank(own.wanted.T.contiguous(), spd_solve(own.sums().system(moment, lam), own.keys.T).T.contiguous())

    changes = {layer: change.to(home.device) for layer, change in layer_by_layer([party], solve).items()}
    return Edit(changes, contributions[0].fingerprint, "trajectory", {"facts": str(len(contributions))})


def from_rounds(
    parties: Sequence[Sequence[Contribution]], moments: Moments, lam: float = LAMBDA, *, coupling: float | None = None
) -> Edit:
    """The same edit where every party keeps its vectors: one round per layer, in which parties send sums.

    In the round of a layer a party sends two numbers, <A, B> and <B, B>; is told alpha; sends its S and T; and is told
    dW. Totals over parties give the edit from all contributions in one place, up to rounding.

    Args:
        parties: the contributions of each party.
        moments, lam, coupling: as for `trajectory`.

    Raises:
        ValueError: as for `trajectory`, or a party has no contributions.
    """
    everyone = [one for party in parties for one in party]
    check_contributions(everyone, moments)
    if not all(parties):
        raise ValueError(f"{sum(not party for party in parties)} parties have no contributions: leave them out.")
    coupling = coupling_of(everyone, coupling)

    def solve(layer: int, asked: Sequence[Asked]) -> LowRank:
        own = [one.sums() for one in asked]
        return LowRank.of(sum(own[1:], own[0]).solve(moments[layer], lam))

    changes = layer_by_layer([Delivery.start(party, coupling) for party in parties], solve)
    return Edit(changes, everyone[0].fingerprint, "trajectory", {"facts": str(len(everyone))})


def coupling_of(contributions: Sequence[Contribution], coupling: float | None) -> float:
    """The given coupling, or 1 if all contributions carry base keys and otherwise 0. Raises ValueError as `trajectory`.

    A model with a norm behind its MLPs has none: what a share brings after the norm is not a sum over layers.
    """
    based = all(one.bases for one in contributions)
    if coupling is None:
        return float(based)
    if not 0 <= coupling <= 1:
        raise ValueError(f"coupling is {coupling}: give a number from 0 to 1.")
    if coupling and not based:
        raise ValueError(f"coupling is {coupling}, but some contributions carry no base keys: give 0, or leave it out.")
    return float(coupling)


def from_sums(
    totals: Mapping[int, Sums],
    moments: Moments,
    fingerprint: str,
    lam: float = LAMBDA,
) -> Edit:
    """The edit with coupling 0 from each layer's S and T, which may be added up elsewhere, for instance by a server.

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
    wanted = torch.stack([torch.stack([one.residual, *map(one.shares.get, layers)]) for one in contributions])
    if not wanted.isfinite().all():
        bad = int((~wanted.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"contribution {bad} has a residual or shares that are not finite numbers: leave it out, or compute it "
            "again."
        )
    if missing := set(layers) - set(moments):
        raise ValueError(f"moments has no C for layer {min(missing)}: give second_moments(lm, layers={layers}).")
    check_finite(moments, layers)
    return layers
