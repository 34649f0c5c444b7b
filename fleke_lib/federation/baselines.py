"""Baselines for FedEdit: each client alone, all facts in one place, merged weight updates, and merged statistics.

Federated learning usually shares weight updates. Each client computes the edit of its own facts from the base model,
and a merge turns the clients' edits into one. `federation.lora` merges the same edits in LoRA form. All baselines use
the same partition. Sums over clients are added up in
an order that follows from their content, so that the order of the clients changes no bit. Only `last_client` depends on
it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit import Edit, memit, trajectory
from fleke_lib.edit.closed_form import LAMBDA, from_rounds
from fleke_lib.edit.moments import Moments
from fleke_lib.edit.readings import Readings, read
from fleke_lib.evaluation.metrics import evaluate, prepare_evaluation
from fleke_lib.evaluation.results import best_of
from fleke_lib.facts.contexts import contexts_for
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.federation.weights import sum_edits
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.post_norm import carried
from fleke_lib.model.presets import Hparams
from fleke_lib.ridge.solve import LowRank, spd_solve
from fleke_lib.ridge.sums import Contribution, Sums, sums

STEPS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0)  # of the server, tried by `tuned`
LAMBDAS = (30.0, 100.0, 300.0, 1000.0, 3000.0)  # of MEMIT on the default model, around its preset's 1000


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


def centralised(
    lm: LanguageModel, facts: Sequence[Fact], mkvs: Sequence[Mkv], moments: Moments, lam: float | None = None
) -> Edit:
    """MEMIT on the facts of all clients in one place, with their text: the setting that a federation avoids.

    lam: the preset's by default; the best one depends on the number of facts, see `tuned`.
    """
    hparams = lm.preset.memit
    return memit(lm, facts, mkvs, moments, hparams=hparams if lam is None else replace(hparams, lam=lam))


def fedsum(edits: Sequence[Edit]) -> Edit:
    """The sum of the clients' updates: for equal clients, FedAvg with a server step equal to their number.

    Each update was solved without the others, so their sum overshoots where keys of several clients are alike.
    """
    return sum_edits(in_order(edits))


def fedavg(edits: Sequence[Edit], weights: Sequence[float] | None = None, step: float = 1.0) -> Edit:
    """`step` times the weighted mean of the clients' updates.

        dW = step * sum_i (w_i / sum_j w_j) dW_i

    The mean (a step of 1) scales each client's edit by its weight's share of the total, with eight equal clients to one
    eighth. A larger step undoes a part of this. `tuned` finds one.

    Args:
        weights: one number from 0 for each edit, such as the client's number of facts; equal weights by default.
        step: the server's learning rate.

    Raises:
        ValueError: the weights are not one number from 0 for each edit, or all are 0.

    Source: FedAvg (McMahan et al., arXiv 1602.05629), for one round from the base weights; the server's learning rate
    is that of Reddi et al., arXiv 2003.00295, algorithm 1 with plain SGD as the server's optimiser.
    """
    shares = client_shares(edits, weights)
    return fedsum([_scaled(edit, step * share) for edit, share in zip(edits, shares, strict=True)])


def client_shares(edits: Sequence[Edit], weights: Sequence[float] | None = None) -> list[float]:
    """Each client's weight divided by the total. Raises ValueError as `fedavg`."""
    weights = [1.0] * len(edits) if weights is None else list(weights)
    if len(weights) != len(edits) or min(weights) < 0 or not sum(weights):
        raise ValueError(f"weights is {weights} for {len(edits)} edits: give one number from 0 for each edit.")
    return [weight / sum(weights) for weight in weights]


def tuned(
    lm: LanguageModel,
    edit: Callable[[float], Edit],
    facts: Sequence[Fact],
    values: Sequence[float] = STEPS,
    slack: float = 0.0,
) -> float:
    """The first value of a setting whose edit's score on these facts is the greatest, or at most `slack` below it.

    The best step and the best lambda depend on the number of facts and clients. Tune them on a federation of the same
    size whose facts are reported nowhere, and give the reported one what was found:

        step = tuned(lm, lambda step: fedavg(tuning_edits, tuning_sizes, step), tuning_facts)
        reported = fedavg(edits, sizes, step)
        lam = tuned(lm, lambda lam: centralised(lm, tuning_facts, tuning_mkvs, moments, lam), tuning_facts, LAMBDAS)

    Args:
        edit: the tuning federation's edit for a value.
        facts: the facts of the tuning federation.
        values: from the one that does least harm on, where there is slack.

    Raises:
        ValueError: there are no facts or no values, or the facts have no score, for lack of paraphrases or neighbours.
    """
    if not len(values):
        raise ValueError("there are no values to try: give at least one.")
    prepared, scores = None, {}
    for value in values:
        one = edit(value)
        prepared = prepared or prepare_evaluation(lm, facts, below=min(one.layers))
        with one.applied(lm):
            scores[value] = evaluate(lm, facts, prepared=prepared).score
    top = scores[best_of(scores)]
    return next(value for value in values if scores[value] >= top - slack)


def last_client(edits: Sequence[Edit]) -> Edit:
    """What the published FedAvg baseline does: each client's edit overwrites the previous one, so only the last stays.

    Source: the public code of the FLEKE paper, zongkaiz/FLEKE.
    """
    return edits[-1]


def summed_statistics(paths: Sequence[Sequence[Contribution]], moments: Moments, lam: float = LAMBDA) -> Edit:
    """The centralised closed form where each client sends only sums: one round per layer (`closed_form.from_rounds`).

    Clients are added up in an order that follows from their content.
    """
    first = min(paths[0][0].shares)
    return from_rounds(sorted(paths, key=lambda own: _sizes(sums(own, first))), moments, lam)


def _sizes(total: Sums) -> tuple[float, float]:
    return float(total.S.sum()), float(total.T.sum())


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


def in_order(edits: Sequence[Edit]) -> list[Edit]:
    """The edits in an order that follows from their content: the order of the clients then changes no bit of a sum."""
    return sorted(edits, key=_content)


def _content(edit: Edit) -> list[tuple[float, float]]:
    """Two numbers for each layer that two different edits do not share, to put edits into one order."""
    return [(float(change.left.sum()), float(change.right.sum())) for change in edit.changes.values()]
