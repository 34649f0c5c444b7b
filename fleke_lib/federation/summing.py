"""Summing: the protection under which packets stay at home and everybody learns totals. A run is given one such object.

    scales = Scales.of(moments, clients=8, facts=60, share=200.0)
    run = run_fedit(lm, parts, Everyone(), secret=secret, protection=Summing(scales))
    summed = total(run, moments)
    ledger = run.ledger.plus(summed.events)

Clients make their packets as ever, and keep them. After a slot they add up their sums under masks
(`fleke_lib.federation.summed`), and everybody gets the same edit. Nobody offers anything: no policy chooses, a fact
that two clients hold is in the total twice, and answers that contradict each other are both in it. Over machines the
same is done by `federation.flower`.

`unlearn.withdraw` works as ever. The scales do not depend on who takes part, and integers add up exactly in any order,
so the edit after a withdrawal is the never-joined federation's, bit for bit.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch

from fleke_lib.edit.closed_form import lambda_of
from fleke_lib.edit.edit import Edit
from fleke_lib.edit.moments import Moments
from fleke_lib.federation.ledger import Event
from fleke_lib.federation.packets.messages import Connected, Offers, Tap
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.rounds import Run
from fleke_lib.federation.summed import Scales, summed_edit


@dataclass(frozen=True, eq=False)
class Summing:
    """Secure aggregation between the clients of a run. scales: the fixed point that they have agreed on."""

    scales: Scales = field(repr=False)

    @contextmanager
    def connect(self, path: Path, rules: Rules, clients: Sequence[str], tap: Tap | None = None) -> Iterator[Connected]:
        """Connections over which nothing crosses; no server keeps anything, so there is no file at `path`."""
        yield Connected(lambda slot: None, {name: AtHome(name, rules) for name in clients})

    def without(self, packets: Collection[str], client: str | None = None) -> Self:
        return self


@dataclass(frozen=True)
class AtHome:
    """A client's connection that sends nothing: its packets are checked as a server would, and stay where they are."""

    client: str
    rules: Rules
    sent: int = 0
    received: int = 0

    def put(self, data: bytes) -> str:
        """Raises Refused where a server would: an honest client puts nothing absurd into a total."""
        self.rules.check(data)
        return hashlib.sha256(data).hexdigest()

    def find(self, tag: str) -> bytes | None:
        return None

    def offers(self, slot: int) -> Offers:
        return Offers((), torch.empty(0, self.rules.d_model), torch.empty(0, self.rules.d_model))

    def get(self, ids: Sequence[str]) -> list[bytes]:
        raise ValueError(f"{len(ids)} packets were asked for, but under summing packets stay at home: ask for totals.")

    def bytes_of(self, id: str, data: bytes) -> dict[str, int]:
        return {"sent": 0, "received": 0}

    def refuse(self, id: str, error: ValueError) -> str:
        return str(error)


@dataclass(frozen=True, eq=False)
class TotalEdit:
    """The edit that all clients get. events: to record, a "summed" one of each client that stayed to the end."""

    edit: Edit
    events: tuple[Event, ...]


def total(
    run: Run,
    moments: Moments,
    until: int | None = None,
    *,
    lam: float | None = None,
    coupling: float | None = None,
    gone: Mapping[int, Collection[str]] | None = None,
) -> TotalEdit:
    """The edit from the masked totals of all that a run's clients hold after slot `until`.

    Args:
        lam: by default the model's. The `disturbance` budget looks at single packets, which nobody has here.
        coupling, gone: as for `summed_edit`.

    Raises:
        ValueError: the run is not one under `Summing`, or as for `summed_edit`.
    """
    protection = run.config.protection
    if not isinstance(protection, Summing):
        raise ValueError(f"this run's protection is {protection!r}: totals are for runs with Summing(scales).")
    parties = {name: own for name in run.clients if (own := run.own(name, until))}
    slot = run.slots - 1 if until is None else until
    session = f"{slot}|{len(run.ledger)}|{','.join(parties)}"
    lam = lambda_of(run.config.lm.preset) if lam is None else lam
    summed = summed_edit(parties, moments, protection.scales, session, lam, coupling=coupling, gone=gone)
    out = {name for names in (gone or {}).values() for name in names}
    cost = {"sent": sum(summed.sent.values()), "received": sum(numbers.nbytes for numbers in summed.totals.values())}
    return TotalEdit(summed.edit, tuple(Event("summed", slot, name, **cost) for name in parties if name not in out))
