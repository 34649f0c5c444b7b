"""Warm starts: an optimisation that begins at the residual of somebody's packet with the same answer, or at a map's.

Residuals of atlas facts with one answer have a mean cosine of 0.46; with two, in one relation, 0.10. A packet whose
target tag equals a new fact's is therefore a good place to begin. The tag says so without text, but it also tells the
server which packets agree on an answer, so that only clients that are configured so send it. An edit map needs no tag
and predicts a start for every fact (`fleke_lib.mkv.edit_map`). The new MKV depends on its sources, the packets with the
same answer or those that taught the map; the ledger names them, and withdrawing one of them means making the MKV anew.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from fleke_lib.facts.fact import Fact
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.mkv.edit_map import EditMap


@dataclass(frozen=True, eq=False)
class Start:
    """Where an optimisation begins: at a residual, at what a map predicts for the fact, or cold.

    sources: ids of the packets that the residual is the mean of, or that taught the map; none for a start without
        client provenance, which need not be cold.

    Raises:
        ValueError: there is a residual and a map, or `sources` does not name the map's teachers.
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
        """Where it begins and its sources: equal origins give the same MKV. Empty for a cold start."""
        if self.cold:
            return ()
        if self.map is not None:
            return (
                self.map.id,
                self.sources,
            )  # not what it predicts, whose last digits depend on who is asked for beside
        return (hashlib.sha256(self.residual.cpu().numpy().tobytes()).hexdigest(), self.sources)


COLD = Start()


def mapped(by: EditMap) -> Start:
    """The start at what a map predicts; its sources are the packets that taught the map."""
    return Start(sources=by.teachers, map=by)


def warm_starts(facts: Sequence[Fact], packets: Sequence[Packet], tags: Tags, otherwise: Start = COLD) -> list[Start]:
    """For each fact the mean residual of the packets with its target tag; `otherwise` where there is none.

    Packets without a target tag are never a source. The order of the packets changes nothing.
    """
    alike: dict[str, list[Packet]] = {}
    for packet in sorted(packets, key=lambda packet: packet.id):
        if packet.target:
            alike.setdefault(packet.target, []).append(packet)
    wanted = [alike.get(tags.target(fact)) for fact in facts]
    return [_mean(sources) if sources else otherwise for sources in wanted]


def _mean(sources: Sequence[Packet]) -> Start:
    residual = torch.stack([packet.residual for packet in sources]).mean(0)
    return Start(residual, tuple(packet.id for packet in sources))
