"""The summed level: an edit solved from masked totals; the server sees no client's sums.

The rounds are those of `fleke_lib.edit.closed_form.from_rounds`: for each layer the clients' totals of <A, B> and
<B, B>, from which alpha follows, then of S and T, from which dW follows. Each total is a round of
`fleke_lib.federation.masks`, in fixed point. S is symmetric, so its upper triangle is sent. A client's part of each
step is a `Summand`, and what follows from a total is in `Solving`: `summed_edit` calls both in one process, and
`fleke_lib.federation.flower.sums` over machines.

What is lost: there are no packets, so there is no retrieval, no provenance, and no withdrawal by the server. With
coupling 0 a client withdraws by sending the negatives of its sums in a later total. Integers modulo 2^64 cancel
exactly, so the total is that of a federation that the facts never joined, bit for bit. The difference of two totals is
what was withdrawn: let several clients withdraw in one round. With coupling, those who stay solve all layers anew.
`fleke_lib.federation.summing` is the protection by which a run is given this level.

A client that drops out stays out of the rounds after. The layers solved before contain its facts. Solving those again
without it would give the server two totals that differ by this client's sums.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fleke_lib.edit.closed_form import LAMBDA, check_contributions, coupling_of
from fleke_lib.edit.coupled import Asked, Delivery, fraction
from fleke_lib.edit.edit import Edit
from fleke_lib.edit.moments import Moments
from fleke_lib.federation.fixed_point import FixedPoint
from fleke_lib.federation.masks import Masked, Participant, Revealed, unmask
from fleke_lib.ridge.solve import LowRank
from fleke_lib.ridge.sums import Contribution, Sums

ROOM = 16  # a key may be this many times as long as an ordinary one, squared


@dataclass(frozen=True, eq=False)
class Scales:
    """The fixed point of each layer's S and T, and of the products; agreed on before anything is sent."""

    layers: Mapping[int, FixedPoint]
    products: FixedPoint

    @classmethod
    def of(cls, moments: Moments, clients: int, facts: int, share: float) -> "Scales":
        """From what no client can influence.

        Args:
            moments: C of each edited layer; the mean of ordinary keys' squared norms is tr C.
            clients: number of clients.
            facts: greatest number of facts of one client.
            share: greatest norm of a residual z - h.

        Raises:
            ValueError: numbers of this size do not fit into 64 bits.
        """
        largest = {}
        for layer, C in moments.items():
            key = (ROOM * float(C.trace())) ** 0.5
            largest[layer] = facts * key * max(key, 2 * share)
        each = {layer: FixedPoint(most, clients) for layer, most in largest.items()}
        return cls(each, FixedPoint(facts * (2 * share * len(moments)) ** 2, clients))


@dataclass(frozen=True)
class Step:
    """One masked total of an edit: of a layer's "products" <A, B> and <B, B>, or of its "sums" S and T."""

    layer: int
    what: str

    def round(self, session: str) -> str:
        """The name of this step's round of `masks`."""
        return f"{session}|{self.layer}|{self.what}"

    def size(self, d_mlp: int, d_model: int) -> int:
        """How many numbers a client adds to this total."""
        return 2 if self.what == "products" else d_mlp * (d_mlp + 1) // 2 + d_model * d_mlp + 1


def steps_of(layers: Iterable[int]) -> tuple[Step, ...]:
    """The totals of an edit in their order: two for each layer, from below."""
    return tuple(Step(layer, what) for layer in sorted(layers) for what in ("products", "sums"))


@dataclass(frozen=True, eq=False)
class Solving:
    """What everybody solves with. moments: C of each layer. lam: its weight."""

    moments: Moments = field(repr=False)
    scales: Scales = field(repr=False)
    lam: float
    d_model: int

    def point(self, step: Step) -> FixedPoint:
        return self.scales.products if step.what == "products" else self.scales.layers[step.layer]

    def learned(self, step: Step, total: NDArray[np.uint64]) -> float | LowRank:
        """What follows from a step's total for everybody: alpha from the products, dW from the sums."""
        numbers = self.point(step).decode(total)
        if step.what == "products":
            return fraction(torch.from_numpy(numbers))
        moment = self.moments[step.layer]
        return LowRank.of(unflat(numbers, len(moment), self.d_model).solve(moment, self.lam))


@dataclass(frozen=True, eq=False)
class Summand:
    """One client's facts on their way through the steps: what it adds to each total. delivery: None without facts."""

    delivery: Delivery | None = field(repr=False)
    asked: Asked | None = field(default=None, repr=False)

    @classmethod
    def of(cls, own: Sequence[Contribution], coupling: float) -> "Summand":
        return cls(Delivery.start(own, coupling) if own else None)

    def numbers(self, step: Step, solving: Solving) -> NDArray[np.uint64]:
        """What this client adds to the total of a step, in fixed point. Raises ValueError if a number overflows."""
        if self.delivery is None:
            return np.zeros(step.size(len(solving.moments[step.layer]), solving.d_model), dtype=np.uint64)
        own = self.delivery.products().numpy() if step.what == "products" else flat(self.asked.sums())
        return solving.point(step).encode(own)

    def after(self, step: Step, learned: float | LowRank) -> "Summand":
        """With what everybody has learned from a step's total."""
        if self.delivery is None:
            return self
        if step.what == "products":
            return replace(self, asked=self.delivery.asked(step.layer, learned))
        return Summand(self.delivery.after(step.layer, self.asked, learned))


@dataclass(frozen=True, eq=False)
class SummedEdit:
    """An edit from masked totals. totals: of each layer, as integers. sent: bytes that one client sent, by layer."""

    edit: Edit
    totals: Mapping[int, NDArray[np.uint64]] = field(repr=False)
    sent: Mapping[int, int]


def summed_edit(
    parties: Mapping[str, Sequence[Contribution]],
    moments: Moments,
    scales: Scales,
    session: str,
    lam: float = LAMBDA,
    *,
    coupling: float | None = None,
    gone: Mapping[int, Collection[str]] | None = None,
) -> SummedEdit:
    """The edit of `closed_form.from_rounds`, up to the rounding of the fixed point, from masked totals.

    Args:
        parties: each client's contributions; clients without facts are left out.
        scales: the agreed fixed point.
        session: a name that no other edit of these clients has; rounds are named after it.
        lam, coupling: as for `edit.trajectory`.
        gone: by layer, the clients that drop out before they send this layer's S and T.

    Raises:
        ValueError: as for `from_rounds`; a number overflows the fixed point, or too few clients are left.
    """
    everyone = [one for party in parties.values() for one in party]
    check_contributions(everyone, moments)
    if not all(parties.values()):
        raise ValueError(f"{sum(not own for own in parties.values())} clients have no contributions: leave them out.")
    coupling, fingerprint = coupling_of(everyone, coupling), everyone[0].fingerprint
    solving = Solving(moments, scales, lam, len(everyone[0].residual))
    here = {name: Summand.of(own, coupling) for name, own in parties.items()}
    changes, totals, sent = {}, {}, {}
    for step in steps_of(everyone[0].shares):
        numbers = {name: one.numbers(step, solving) for name, one in here.items()}
        out = set((gone or {}).get(step.layer, ())) if step.what == "sums" else set()
        total, size = masked_total(step.round(session), numbers, out)
        sent[step.layer] = sent.get(step.layer, 0) + size
        learned = solving.learned(step, total)
        here = {name: one.after(step, learned) for name, one in here.items() if name not in out}
        if isinstance(learned, LowRank):
            changes[step.layer], totals[step.layer] = learned, total
    return SummedEdit(Edit(changes, fingerprint, "trajectory", {"clients": str(len(here))}), totals, sent)


def masked_total(
    round: str, vectors: Mapping[str, NDArray[np.uint64]], gone: Collection[str] = ()
) -> tuple[NDArray[np.uint64], int]:
    """One round in one process: the total of the clients that stay, and the bytes that one of them sends.

    Args:
        gone: clients that drop out after they have dealt their shares, before their vectors are sent.

    Raises:
        ValueError: as for `masks.unmask`.
    """
    members = {name: Participant(round, name) for name in sorted(vectors)}
    adverts = [member.advertise() for member in members.values()]
    sealed = {name: member.share(adverts) for name, member in members.items()}
    for sender, shares in sealed.items():
        for receiver, share in shares.items():
            members[receiver].receive(sender, share)
    masked = [members[name].masked(vectors[name]) for name in members if name not in gone]
    came = [one.client for one in masked]
    revealed = [members[name].reveal(round, came) for name in came]
    return unmask(round, adverts, masked, revealed), _bytes(masked[0], sealed[came[0]], revealed[0])


def flat(sums: Sums) -> NDArray[np.float64]:
    """The upper triangle of S, T, and the trace left out, as one vector."""
    S, T = sums.S.cpu().numpy(), sums.T.cpu().numpy()
    return np.concatenate([S[np.triu_indices(len(S))], T.reshape(-1), [sums.left]])


def unflat(numbers: NDArray[np.float64], d_mlp: int, d_model: int) -> Sums:
    """The S and T whose vector `flat` gives."""
    S, above = np.zeros((d_mlp, d_mlp)), np.triu_indices(d_mlp)
    S[above] = numbers[: len(above[0])]
    S = S + np.triu(S, 1).T
    T = numbers[len(above[0]) : -1].reshape(d_model, d_mlp)
    return Sums(torch.from_numpy(S), torch.from_numpy(T.copy()), float(numbers[-1]))


def _bytes(masked: Masked, sealed: Mapping[str, bytes], revealed: Revealed) -> int:
    """Bytes of a client's four messages, without names."""
    shares = sum(map(len, sealed.values())) + sum(map(len, (*revealed.seeds.values(), *revealed.keys.values())))
    return 32 + 32 + shares + masked.numbers.nbytes
