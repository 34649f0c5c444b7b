"""Warm starts: an optimisation starts at the residual of packets with the same target, or at an edit map's prediction.

Residuals of atlas facts have a mean cosine of 0.46 when the facts have the same target, and of 0.10 when they are of
one relation and have different targets. A packet whose target tag equals that of a new fact is therefore a good start.
The tag carries no text, but it shows the server which packets have the same target; clients send it only if configured
to. An edit map needs no tag and predicts a start for every fact (`fleke_lib.mkv.edit_map`). The new MKV depends on its
sources: the packets with the same target, or those that taught the map. The ledger names them. If one of them is
withdrawn, the MKV must be computed again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.mkv.edit_map import EditMap


@dataclass(frozen=True, eq=False)
class Start:
    """Where an optimisation starts: at a residual, at a map's prediction for the fact, or cold (at zero).

    sources: ids of the packets whose mean the residual is, or that taught the map. A warm start without client
        provenance has none either.

    Raises:
        ValueError: both a residual and a map are given, or `sources` differs from the map's teachers.
    """

    residual: Float[torch.Tensor, " d_model"] | None = None
    sources: tuple[str, ...] = ()
    map: EditMap | None = None

    def __post_init__(self) -> None:
        if self.residual is not None and self.map is not None:
            raise ValueError("this start has a residual and a map: give one of them.")
        if self.map is not None and self.sources != self.map.teachers:
            taught = len(self.map.teachers)
            raise ValueError(f"this start has {len(self.sources)} sources, but {taught} taught its map: use `mapped`.")

    @property
    def cold(self) -> bool:
        return self.residual is None and self.map is None

    @property
    def origin(self) -> tuple:
        """The start and its sources, hashable: equal origins give the same MKV. Empty for a cold start."""
        if self.cold:
            return ()
        if self.map is not None:  # by its id: the last digits of a prediction depend on the batch
            return (self.map.id, self.sources)
        return (hashlib.sha256(self.residual.cpu().numpy().tobytes()).hexdigest(), self.sources)


COLD = Start()


def mapped(by: EditMap) -> Start:
    """The start at a map's prediction; its sources are the packets that taught the map."""
    return Start(sources=by.teachers, map=by)


def warm_starts(facts: Sequence[Fact], packets: Sequence[Packet], tags: Tags, otherwise: Start = COLD) -> list[Start]:
    """For each fact the mean residual of the packets with its target tag, or `otherwise` where there are none.

    Packets without a target tag are never a source. The result does not depend on the order of the packets.
    """
    check_list(facts)
    alike: dict[str, list[Packet]] = {}
    for packet in sorted(packets, key=lambda packet: (packet.content, packet.id)):
        if packet.target:
            alike.setdefault(packet.target, []).append(packet)
    wanted = [alike.get(tags.target(fact)) for fact in facts]
    return [_mean(sources) if sources else otherwise for sources in wanted]


def _mean(sources: Sequence[Packet]) -> Start:
    residual = torch.stack([packet.residual for packet in sources]).mean(0)
    return Start(residual, tuple(sorted(packet.id for packet in sources)))
