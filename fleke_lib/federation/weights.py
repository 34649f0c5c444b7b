"""Which weights follow from a run: three forms of re-editing, each a function of the ledger and the packets.

    cumulative             solve once more from the base weights, over every packet held
    sequential             add each slot's closed-form edits to what the slots before have left
    sequential with text   the same with MEMIT, which reads its keys from the edited model: as published, and possible
                           only where adopted facts come with their text

The first does not depend on the order of arrival, and nothing drifts: base weights are where every solve starts.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit import Edit, memit, trajectory
from fleke_lib.edit.solve import LowRank
from fleke_lib.edit.trajectory import LAMBDA
from fleke_lib.federation.conflicts import Rule, own_wins, settled
from fleke_lib.federation.packet import Packet
from fleke_lib.federation.rounds import Run
from fleke_lib.mkv import Mkv

if TYPE_CHECKING:
    from fleke_lib.model import LanguageModel

Moments = Mapping[int, Float[Tensor, "d_mlp d_mlp"]]


def held(run: Run, client: str, until: int | None = None, rule: Rule = own_wins) -> tuple[Packet, ...]:
    """The packets that a client's model is made of after slot `until`, conflicts settled, in the order of ids."""
    packets = settled(run.own(client, until), run.adopted(client, until), rule)
    return tuple(sorted(packets, key=lambda packet: packet.id))


def cumulative(
    run: Run, client: str, moments: Moments, until: int | None = None, rule: Rule = own_wins, lam: float = LAMBDA
) -> Edit:
    """`W = W_0 + f(all packets held)`: the closed form, from the base weights."""
    return trajectory(held(run, client, until, rule), moments, lam)


def sequential(
    run: Run, client: str, moments: Moments, until: int | None = None, rule: Rule = own_wins, lam: float = LAMBDA
) -> Edit:
    """`W_t = W_{t-1} + f(own packets of slot t) + f(packets adopted in slot t)`, vectors only."""
    steps = [trajectory(new, moments, lam) for new in _stages(run, client, until, rule)]
    return added(steps)


def sequential_with_text(
    run: Run, lm: "LanguageModel", client: str, moments: Moments, until: int | None = None, rule: Rule = own_wins
) -> Edit:
    """The published form: MEMIT on the model as edited so far, first the own facts of a slot, then the adopted ones.

    The reference that vectors-only adoption is held against; the facts of adopted packets are looked up in the run,
    which no server and no client of a federation could do. The model is left as it was.
    """
    steps: list[Edit] = []
    try:
        for new in _stages(run, client, until, rule):
            facts = [run.fact(packet.id) for packet in new]
            steps.append(memit(lm, facts, [Mkv(packet.z, packet.h) for packet in new], moments))
            steps[-1].apply(lm)
    finally:
        for step in reversed([applied.edit for applied in lm.edits if applied.edit in steps]):
            step.remove(lm)
    return added(steps, fingerprint=lm.fingerprint(lm.preset.layers))


def added(edits: Sequence[Edit], fingerprint: str | None = None) -> Edit:
    """One edit whose changes are the sums of several's."""
    layers = edits[0].layers
    changes = {layer: torch.stack([edit.delta(layer) for edit in edits]).sum(0) for layer in layers}
    dense = {layer: LowRank(torch.eye(len(dW), dtype=dW.dtype), dW) for layer, dW in changes.items()}
    return Edit(dense, fingerprint or edits[0].fingerprint, edits[0].method)


def _stages(run: Run, client: str, until: int | None, rule: Rule) -> list[tuple[Packet, ...]]:
    """The packets that are new at each stage: a slot's own ones, then its adopted ones, where there are any."""
    last, before, stages = run.slots - 1 if until is None else until, set(), []
    for slot in range(last + 1):
        now = held(run, client, slot, rule)
        own = {packet.id for packet in run.own(client, slot)}
        for mine in (True, False):
            new = tuple(packet for packet in now if packet.id not in before and (packet.id in own) == mine)
            stages += [new] if new else []
        before |= {packet.id for packet in now}
    return stages
