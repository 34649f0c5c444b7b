"""Poisoning: members of a federation that publish packets to take other members' facts out of everybody's edit.

Threat model.

- Attacker: one or a few of the clients. They are members: they hold the secret of the tags, and the transport knows
  them. They may act together.
- They see: all packets that others have published so far, as every member may.
- They know: the base model, this code, C, the rules of admission and each client's budget.
- They may: publish any packet that the rules admit, under their own pseudonyms, in the present slot.
- They want: a victim's fact not to be in the edit of third clients that adopt everything. The victim's own client keeps
  its own packet in any case.

Each way needs no gradient and no text, only the victim's packet:

- `erasing`: axes along victims' mean keys. An axis asks for the share 0 there (`fleke_lib.ridge.sums`), so the edit no
  longer maps the key to its share.
- `cancelling`: the victim's own key under a tag of its own, with the opposite share; in T the two cancel.
- `mistagged`: other vectors under the victim's tags, which a third client reuses, or keeps in place of the victim's.

What bounds them is in `federation.registry.admission`, `federation.registry.budget` and `federation.packets.conflicts`.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.federation.packets.packet import Packet, assemble
from fleke_lib.federation.registry.admission import Rules

ROOM = 0.99  # of a bound, for rounding


def erasing(
    carrier: Packet,
    victims: Sequence[Packet],
    rules: Rules,
    client: str,
    slot: int,
    *,
    times: float = 1.0,
    bases: bool = False,
) -> Packet:
    """A packet whose axes lie along the victims' mean keys, as long as the rules admit.

    Args:
        carrier: a packet of an own fact, which everything but the axes is taken from.
        victims: at most `rules.axes`.
        times: length of an axis in units of the victim's key, where the rules admit it.
        bases: also along the victims' keys on the base model. The coupled solve uses keys between the two
            (`fleke_lib.edit.coupled`), which an axis along one of them does not erase.

    Raises:
        ValueError: there are more victims than axes.
    """
    kinds = ["means", *(["bases"] if bases else [])]
    if len(victims) * len(kinds) > rules.axes:
        given = f"{len(victims)} victims are given, but a packet has {rules.axes} axes"
        raise ValueError(f"{given}, {len(kinds)} for each victim: give fewer.")
    axes = {
        layer: torch.stack(
            [longest(rules, layer, getattr(victim, kind)[layer], times) for victim in victims for kind in kinds]
        )
        for layer in carrier.layers
    }
    return forged(carrier, client, slot, axes=axes)


def longest(rules: Rules, layer: int, key: Float[Tensor, " d_mlp"], times: float) -> Float[Tensor, " d_mlp"]:
    """The axis along a key that is `times` as long, or as long as the rules admit if that is less."""
    most = rules.reach / float(key.double().norm())
    if rules.leverage is not None:
        most = min(most, (rules.axis / float(rules.leverage.rows(layer, key[None]))) ** 0.5)
    return min(times, ROOM * most) * key


def cancelling(
    victim: Packet,
    tags: Mapping[str, str],
    client: str,
    slot: int,
    *,
    turned: float = 0.0,
    opposed: float = 1.0,
    seed: int = 0,
) -> Packet:
    """The victim's key with a share against the victim's, under other tags.

    Args:
        tags: "question" and "answer" of no fact that anybody has.
        turned: how far each key is turned from the victim's, as the tangent of the angle, in a random direction.
        opposed: the part of the victim's share that is taken away. The rest of the length is in a random direction.
    """
    generator = torch.Generator().manual_seed(seed)
    aside = torch.randn(victim.h.shape, generator=generator)

    def turn(key: Tensor) -> Tensor:
        other = torch.randn(key.shape, generator=generator)
        return key + turned * key.norm() * other / other.norm()

    def against(share: Tensor) -> Tensor:
        across = aside - (aside @ share) / (share @ share) * share
        return -opposed * share + (1 - opposed**2) ** 0.5 * share.norm() * across / across.norm()

    return forged(
        victim,
        client,
        slot,
        z=victim.h + against(victim.residual),
        shares={layer: against(share) for layer, share in victim.shares.items()},
        means={layer: turn(key) for layer, key in victim.means.items()},
        tags=tags,
    )


def mistagged(carrier: Packet, victim: Packet, client: str, slot: int) -> Packet:
    """The carrier's vectors under the victim's tags."""
    tags = {"question": victim.question, "answer": victim.answer, "target": victim.target}
    return forged(carrier, client, slot, tags=tags)


def forged(
    packet: Packet,
    client: str,
    slot: int,
    *,
    z: Tensor | None = None,
    shares: Mapping[int, Tensor] | None = None,
    means: Mapping[int, Tensor] | None = None,
    axes: Mapping[int, Tensor] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Packet:
    """A packet with some of another packet's vectors or tags replaced, in 16 bits; `bases` move along with `means`."""
    layers, moved = packet.layers, means or packet.means
    moves = [packet.means[layer] - packet.bases[layer] for layer in layers[1:]] if packet.bases else []
    vectors = {
        "z": packet.z if z is None else z,
        "h": packet.h,
        "shares": torch.stack([(shares or packet.shares)[layer] for layer in layers]),
        "means": torch.stack([moved[layer] for layer in layers]),
        "moves": torch.stack(moves) if moves else packet.means[layers[0]][None][:0],
        "axes": torch.stack([(axes or packet.axes)[layer] for layer in layers]),
        "left": torch.tensor([packet.left[layer] for layer in layers]),
    }
    about = {"client": client, "slot": slot, "fingerprint": packet.fingerprint, "layers": list(layers)}
    about |= {"question": packet.question, "answer": packet.answer, "target": packet.target, **(tags or {})}
    return assemble(vectors, about, "float16")
