"""Reuse: whether a packet with the tag of a client's own fact is a packet of this fact.

A tag is what its publisher says: any member can put a fact's tags on other vectors. A client that has the fact can
tell, because everything in a packet except z follows from the fact, z and the base model:

- One forward pass gives h, and how likely the target is with h and with z.
- One trajectory, simulated with the packet's z, gives keys, shares and spread.

On the default model both together take an eighth of the time of an MKV. What is left to a liar is z: one that makes the
target a little more likely, but not likely enough, passes.

The bounds are far from honest packets and from others. On 40 atlas facts that report nothing, with 4 bits, honest ones
are at most 0.0003 of a norm away for h, 0.02 for shares, 0.16 for mean keys and 0.37 for keys on the base model. The h
of another of these facts is at least 0.44 away.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.trajectories import Trajectory, trajectories
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import fact_texts, shortened, stage
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.provider import Provider
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.language_model import LanguageModel, widened

STATE = 0.05  # greatest distance of h to the own one, relative to the own one's norm
SHARE, KEY, BASE = 0.1, 0.3, 0.6  # the same for shares, mean keys, and mean keys on the base model
HELD = 0.5  # the least that the own spread has along an axis d, in units of |d|^2; honest axes have 0.94 or more
TRACE = 1.1  # the greatest trace of axes and what they leave out, in units of the own spread's; honest ones have 1.04
ROUNDED = 1e-3  # two z that are nearer differ by their rounding to 16 bits
LOSS = 0.05  # nats a token that z may lose to h: where the model knew the answer, z is h up to rounding


class Doubts:
    """Why a packet is not one of a fact whose answer tag it has. Vectors are checked once, whichever client asks.

    provider: what it has computed of a fact already is compared with, where z is the same, and nothing is run again.
    """

    def __init__(self, lm: LanguageModel, provider: Provider) -> None:
        self.lm, self._memory = lm, getattr(provider, "known", lambda fact: None)
        self._found: dict[tuple[str, Fact], str] = {}

    def __call__(self, packet: Packet, fact: Fact) -> str:
        """As `fault_of_reuse`."""
        key = (packet.content[-1], fact)
        if key not in self._found:
            known = self._memory(fact)
            same = known is not None and _distance(packet.z, known.mkv.z) < ROUNDED
            self._found[key] = (
                _fault(packet, known.mkv.h, known.trajectory) if same else fault_of_reuse(self.lm, packet, fact)
            )
        return self._found[key]


def fault_of_reuse(lm: LanguageModel, packet: Packet, fact: Fact) -> str:
    """Why a packet is not one of this fact, or an empty string."""
    h, before, after = _with_and_without(lm, fact, packet.layers[-1], packet.z)
    if fault := _fault_of_state(packet, h):
        return fault
    if after < before - LOSS:
        return f"has a z that makes this fact's target less likely than h does, by {before - after:.2g} nats a token"
    (own,) = trajectories(lm, [fact], [Mkv(packet.z, h)], layers=packet.layers)
    return _fault(packet, h, own)


def _fault(packet: Packet, h: Float[Tensor, " d_model"], own: Trajectory) -> str:
    """What differs from the fact's h and its trajectory with this z."""
    faults = (_fault_at(layer, packet, own) for layer in packet.layers)
    return _fault_of_state(packet, h) or next(filter(None, faults), "")


def _fault_of_state(packet: Packet, h: Float[Tensor, " d_model"]) -> str:
    found = _distance(packet.h, h)
    return f"has an h that is {found:.2g} of its norm away from this fact's" if found > STATE else ""


def _fault_at(layer: int, packet: Packet, own: Trajectory) -> str:
    """What differs at one layer from the trajectory of this fact with this z."""
    pairs = [
        ("share", packet.shares[layer], own.shares[layer], SHARE),
        ("mean key", packet.means[layer], own.mean(layer), KEY),
    ]
    if packet.bases and own.bases:
        pairs.append(("mean key on the base model", packet.bases[layer], own.bases[layer], BASE))
    for what, one, other, most in pairs:
        if (found := _distance(one, other)) > most:
            return f"has a {what} at layer {layer} that is {found:.2g} of its norm away from this fact's"
    axes, spread = packet.axes[layer].double(), own.spread(layer)
    squares, along = axes.square().sum(1), (axes @ spread.T).square().sum(1)  # |d|^2 and d^T D d
    if (along < HELD * squares.square()).any():
        return f"has an axis at layer {layer} along which this fact has no spread"
    if float(squares.sum()) + packet.left[layer] > TRACE * float(spread.square().sum()):
        return f"has a greater spread at layer {layer} than this fact"
    return ""


@torch.no_grad()
def _with_and_without(
    lm: LanguageModel, fact: Fact, layer: int, z: Float[Tensor, " d_model"]
) -> tuple[Float[Tensor, " d_model"], float, float]:
    """h, and the target's mean log probability a token with h and with z in its place."""
    (text,) = fact_texts(lm, fact, ("",))
    staged = stage(lm, [shortened(text)], start=layer + 1)
    h = widened(staged.cut[0])
    first = text.target - 1 - text.subject[1]
    places = slice(first, first + len(text.target_ids))

    def likelihood(shift: Tensor) -> float:
        found = lm.logits(staged.run(lm, shift[None])[0, places]).float().log_softmax(-1)
        return float(found.gather(1, torch.tensor(text.target_ids, device=found.device)[:, None]).mean())

    return h.cpu(), likelihood(torch.zeros_like(h)), likelihood(z.to(h) - h)


def _distance(one: Tensor, other: Tensor) -> float:
    """Of two vectors, relative to the second one's norm; 0 if both are zero."""
    distance = float((one.double() - other.double()).norm())
    return distance / float(other.double().norm().clamp(min=1e-30)) if distance else 0.0
