"""A client can turn its packets into weights in three ways, each a function of the ledger and the packets.

    cumulative             solve from the base weights, over all packets held
    sequential             add each slot's closed-form edits to the weights after the previous slot
    sequential with text   the same with MEMIT, which reads its keys from the edited model; this is the published form,
                           and possible only where adopted facts come with their text

The cumulative form does not depend on the order of arrival, nor on which of two clients with the same fact publishes
it. It does not drift, because each solve starts from the base weights. The weight of C, lambda, is that of the model's
preset (`closed_form.lambda_of`); the cumulative form takes a greater one where the edit would disturb ordinary text too
much (`edit.disturbance`).
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch

from fleke_lib.edit import Edit, memit, trajectory
from fleke_lib.edit.closed_form import lambda_of
from fleke_lib.edit.disturbance import within_budget
from fleke_lib.edit.moments import Moments
from fleke_lib.federation.packets.conflicts import ConflictRule, own_wins, resolve
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.rounds import Run
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.ridge.solve import LowRank


def held(run: Run, client: str, until: int | None = None, rule: ConflictRule = own_wins) -> tuple[Packet, ...]:
    """The packets behind a client's model after slot `until`, conflicts resolved by `rule`.

    Their order is that of `Packet.content`, by which the edit's bits do not depend on who published a packet.
    """
    return settled(run.own(client, until), run.adopted(client, until), rule)


def settled(own: Sequence[Packet], adopted: Sequence[Packet], rule: ConflictRule = own_wins) -> tuple[Packet, ...]:
    """`held` for a client that has its packets and no run: conflicts resolved, in the order of `Packet.content`."""
    return tuple(sorted(resolve(own, adopted, rule), key=lambda packet: (packet.content, packet.id)))


def cumulative(
    run: Run,
    client: str,
    moments: Moments,
    until: int | None = None,
    rule: ConflictRule = own_wins,
    lam: float | None = None,
    device: torch.device | str | None = None,
    *,
    coupling: float | None = None,
) -> Edit:
    """`W = W_0 + f(all packets held)`: the closed form, solved from the base weights, on `device` if given.

    Args:
        lam: by default the one that `disturbance.within_budget` finds for these packets.
        coupling: as for `edit.trajectory`.
    """
    packets = held(run, client, until, rule)
    if lam is None:
        return within_budget(run.config.lm, packets, moments, device=device, coupling=coupling)
    return trajectory(packets, moments, lam, device, coupling=coupling)


def sequential(
    run: Run,
    client: str,
    moments: Moments,
    rule: ConflictRule = own_wins,
    lam: float | None = None,
    *,
    slots: Collection[int] | None = None,
) -> dict[int, Edit]:
    """By slot, the edit after it: `W_t = W_{t-1} + f(own packets of slot t) + f(packets adopted in slot t)`.

    From vectors only.

    Args:
        slots: those whose edits are kept, all by default. An edit of many facts is as large as the edited weights.

    Raises:
        ValueError: the client holds no packet after the first of these slots, or the run has no such slot.
    """
    return _after(run, client, rule, slots, lambda new, _: trajectory(new, moments, _lam(run, lam)))


def sequential_with_text(
    run: Run,
    lm: LanguageModel,
    client: str,
    moments: Moments,
    rule: ConflictRule = own_wins,
    *,
    slots: Collection[int] | None = None,
) -> dict[int, Edit]:
    """By slot, the edit after it in the published form: MEMIT on the edited model, of own facts, then of adopted ones.

    This is the reference for adoption by vectors only. The texts of adopted facts are looked up in the run, which is
    impossible for the server and the clients of a real federation. The model is unchanged afterwards. Arguments and
    errors as for `sequential`.
    """

    def step(new: Sequence[Packet], before: Edit | None) -> Edit:
        facts = [run.fact(packet.id) for packet in new]
        with before.applied(lm) if before else nullcontext():
            edit = memit(lm, facts, [Mkv(packet.z, packet.h) for packet in new], moments)
        return replace(edit, fingerprint=before.fingerprint) if before else edit  # the sum is of the base model

    return _after(run, client, rule, slots, step)


def sum_edits(edits: Sequence[Edit]) -> Edit:
    """One edit whose change at each layer is the sum of these edits' changes.

    Raises:
        ValueError: the edits were computed on several models, or on one with different edits applied.
    """
    if len({edit.fingerprint for edit in edits}) > 1:
        raise ValueError("these edits were computed on several models: give edits that were computed on one model.")
    layers = edits[0].layers
    changes = {layer: torch.stack([edit.delta(layer) for edit in edits]).sum(0) for layer in layers}
    return Edit({layer: LowRank.of(dW) for layer, dW in changes.items()}, edits[0].fingerprint, edits[0].method)


def _after(
    run: Run,
    client: str,
    rule: ConflictRule,
    slots: Collection[int] | None,
    step: Callable[[Sequence[Packet], Edit | None], Edit],
) -> dict[int, Edit]:
    """The sum of all steps after each of these slots; `step(packets, sum so far)` is the edit of one stage."""
    slots = range(run.slots) if slots is None else slots
    if unknown := set(slots) - set(range(run.slots)):
        raise ValueError(f"the run has no slot {min(unknown)}: give slots from 0 to {run.slots - 1}.")
    total, found = None, {}
    for slot, stages in enumerate(_stages(run, client, rule)):
        for new in stages:
            now = step(new, total)
            total = sum_edits([total, now]) if total else now
        if slot in slots:
            if total is None:
                raise ValueError(f"the client holds no packet after slot {slot}: follow one that edits from the start.")
            found[slot] = total
    return found


def _lam(run: Run, lam: float | None) -> float:
    return lambda_of(run.config.lm.preset) if lam is None else lam


def _stages(run: Run, client: str, rule: ConflictRule) -> list[list[tuple[Packet, ...]]]:
    """For each slot its new packets: the own ones, then the adopted ones, each where there are any."""
    before: set[tuple[str, str]] = set()  # by tags: only one of two packets with the same answer is written
    slots = []
    for slot in range(run.slots):
        now = held(run, client, slot, rule)
        own = {packet.id for packet in run.own(client, slot)}
        new = [packet for packet in now if (packet.question, packet.answer) not in before]
        halves = [tuple(packet for packet in new if (packet.id in own) == mine) for mine in (True, False)]
        slots.append([half for half in halves if half])
        before |= {(packet.question, packet.answer) for packet in now}
    return slots
