"""Baselines for FedEdit: each client alone, all facts in one place, merged weight updates, and merged statistics.

Federated learning usually shares weight updates. Each client computes the edit of its own facts from the base model,
and a merge turns the clients' edits into one. All baselines use the same partition. Sums over clients are added up in
an order that follows from their content, so that the order of the clients changes no bit. Only `last_client` depends on
it.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit import Edit, from_sums, memit, trajectory
from fleke_lib.edit.closed_form import LAMBDA
from fleke_lib.edit.moments import Moments
from fleke_lib.edit.readings import Readings, read
from fleke_lib.facts.contexts import contexts_for
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.federation.weights import sum_edits
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.post_norm import carried
from fleke_lib.model.presets import Hparams
from fleke_lib.ridge.solve import LowRank, spd_solve
from fleke_lib.ridge.sums import Contribution, Sums, sums


def local_only(
    paths: Iterable[Sequence[Contribution]],
    moments: Moments,
    lam: float = LAMBDA,
    device: torch.device | str | None = None,
) -> list[Edit]:
    """Each client's edit, computed from the trajectories of its own facts alone; on `device` if given.

    lam: as for `edit.trajectory`; for another model than the default one give `closed_form.lambda_of(lm.preset)`.
    """
    return [trajectory(own, moments, lam, device) for own in paths]


def centralised(lm: LanguageModel, facts: Sequence[Fact], mkvs: Sequence[Mkv], moments: Moments) -> Edit:
    """MEMIT on the facts of all clients in one place, with their text: the setting that a federation avoids."""
    return memit(lm, facts, mkvs, moments)


def fedsum(edits: Sequence[Edit]) -> Edit:
    """The sum of the clients' updates. Each was solved without the others, so their sum overshoots."""
    return sum_edits(sorted(edits, key=_content))


def fedavg(edits: Sequence[Edit], weights: Sequence[float] | None = None) -> Edit:
    """The weighted mean of the clients' updates, which scales each client's edit by its weight's share of the total.

    Args:
        weights: one number from 0 for each edit, such as the client's number of facts; equal weights by default.

    Raises:
        ValueError: the weights are not one number from 0 for each edit, or all are 0.

    Source: FedAvg (McMahan et al., arXiv 1602.05629), for one round from the base weights.
    """
    weights = [1.0] * len(edits) if weights is None else list(weights)
    if len(weights) != len(edits) or min(weights) < 0 or not sum(weights):
        raise ValueError(f"weights is {weights} for {len(edits)} edits: give one number from 0 for each edit.")
    shares = [weight / sum(weights) for weight in weights]
    return fedsum([_scaled(edit, share) for edit, share in zip(edits, shares, strict=True)])


def last_client(edits: Sequence[Edit]) -> Edit:
    """What the published FedAvg baseline does: each client's edit overwrites the previous one, so only the last stays.

    Source: the public code of the FLEKE paper, zongkaiz/FLEKE.
    """
    return edits[-1]


def summed_statistics(paths: Sequence[Sequence[Contribution]], moments: Moments, lam: float = LAMBDA) -> Edit:
    """The centralised closed form in one round: clients send their S and T per layer, the server adds and solves."""
    layers = sorted(paths[0][0].shares)
    totals: dict[int, Sums] = {}
    for layer in layers:
        parts = sorted((sums(own, layer) for own in paths), key=lambda part: (float(part.S.sum()), float(part.T.sum())))
        totals[layer] = sum(parts[1:], parts[0])
    return from_sums(totals, moments, paths[0][0].fingerprint, lam)


def collabedit(
    lm: LanguageModel,
    facts: Sequence[Sequence[Fact]],
    mkvs: Sequence[Sequence[Mkv]],
    moments: Moments,
    hparams: Hparams | None = None,
) -> Edit:
    """MEMIT with an exact merge at every layer, one round per layer.

    Client i solves its own `dW_i = R_i^T K_i (lam C + K_i^T K_i)^-1` and sends two matrices. The server solves once:

        dW = (sum_i dW_i (lam C + K_i^T K_i)) (lam C + sum_i K_i^T K_i)^-1

    This is MEMIT on the facts of all clients. After each merge the clients read their keys for the next layer.

    Args:
        facts, mkvs: one sequence for each client, in the same order.

    Source: CollabEdit (ICLR 2025, arXiv 2410.09508), equation 7.
    """
    hparams = hparams or lm.preset.memit
    layers = hparams.layers
    for own in facts:
        check_list(own)
    pairs = sorted(
        zip(facts, mkvs, strict=True), key=lambda pair: [(fact.question, fact.target_new) for fact in pair[0]]
    )
    readings = [read(lm, own, contexts_for(lm), layers) for own, _ in pairs]
    wanted = [torch.stack([mkv.z for mkv in own]).to(lm.device) for _, own in pairs]
    changes: dict[int, LowRank] = {}
    for i, layer in enumerate(layers):
        prior = hparams.lam * moments[layer].to(lm.device).double()
        sent = [_message(r, z, layer, len(layers) - i, prior) for r, z in zip(readings, wanted, strict=True)]
        weighed, grams = (torch.stack(matrices).sum(0) for matrices in zip(*sent, strict=True))
        merged = spd_solve(prior + grams, weighed.T).T
        changes[layer] = LowRank.of(merged)
        if layer != layers[-1]:
            readings = [r.after(changes[layer], up_to=layers[i + 1]) for r in readings]
    return Edit(changes, lm.fingerprint(layers), "collabedit", {"facts": str(sum(map(len, facts)))})


def _message(
    readings: Readings, z: Float[Tensor, "facts d_model"], layer: int, to_go: int, prior: Float[Tensor, "d_mlp d_mlp"]
) -> tuple[Float[Tensor, "d_model d_mlp"], Float[Tensor, "d_mlp d_mlp"]]:
    """What one client sends for one layer: `dW_i (lam C + K_i^T K_i)` and `K_i^T K_i`."""
    keys = readings.keys().double()
    share = carried(readings.lm, layer, readings.outputs(layer), (z - readings.states()) / to_go).double()
    gram = keys.T @ keys
    own = spd_solve(prior + gram, (share.T @ keys).T).T
    return own @ (prior + gram), gram


def _scaled(edit: Edit, share: float) -> Edit:
    changes = {layer: LowRank(share * change.left, change.right) for layer, change in edit.changes.items()}
    return Edit(changes, edit.fingerprint, edit.method)


def _content(edit: Edit) -> list[tuple[float, float]]:
    """Two numbers for each layer that two different edits do not share, to put edits into one order."""
    return [(float(change.left.sum()), float(change.right.sum())) for change in edit.changes.values()]
