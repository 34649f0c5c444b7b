"""Who and what has left? A withdrawal is exact, so what it changes is the withdrawn fact.

The attacker sees the same thing before and after a withdrawal: the dW of one layer, a registry, or totals S and T. It
has C and the keys of candidate subjects. In the manner of FUIA (arXiv 2502.14558).

    registry    the packets that are gone can be read like any others, if the attacker kept a copy
    totals      T - T' = sum r k^T over the withdrawn facts: of their number in rank, and nothing else
    dW          dW - dW' is, nearly, of that rank: the others' part changes only through S

Withdrawals in batches hide which of several facts has which target; they do not hide the subjects.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.privacy.attacks.updates import Candidates, row_space, whitened
from fleke_lib.ridge.sums import Sums


def from_registries(before: Sequence[Packet], after: Sequence[Packet]) -> list[Packet]:
    """The packets that are gone."""
    left = {packet.id for packet in after}
    return [packet for packet in before if packet.id not in left]


def from_updates(
    before: Float[Tensor, "d_model d_mlp"],
    after: Float[Tensor, "d_model d_mlp"],
    candidates: Candidates,
    facts: int = 1,
) -> Float[Tensor, " candidates"]:
    """Scores of the candidates from the change of dW at the first edited layer. facts: how many were withdrawn."""
    return candidates.inside(row_space((before.double() - after.double()) @ candidates.root, facts))


def from_totals(before: Sums, after: Sums, candidates: Candidates, facts: int = 1) -> Float[Tensor, " candidates"]:
    """Scores of the candidates from the change of T at the first edited layer. facts: how many were withdrawn."""
    return candidates.inside(row_space(whitened((before - after).T, candidates.root), facts))
