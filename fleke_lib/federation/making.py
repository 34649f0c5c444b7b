"""Making MKVs and trajectories for a client: one at a time is asked for, many at a time is made, nothing twice.

Neither depends on who edits or when, since both are computed on the base model. So an experiment makes each fact's once
and plays any number of federations with them. A warm start is the exception: what comes of it depends on the packets
that it began at, and is kept for these alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fleke_lib.facts import Fact
from fleke_lib.federation.warm import COLD, Start
from fleke_lib.mkv import Mkv, compute_mkvs
from fleke_lib.mkv_store import stored_mkvs
from fleke_lib.trajectory import Trajectory, trajectories

if TYPE_CHECKING:
    from fleke_lib.model import LanguageModel


@dataclass(frozen=True, eq=False)
class Made:
    """A fact's MKV and trajectory, the packets that its optimisation started from, and how long it took."""

    mkv: Mkv
    path: Trajectory
    of: tuple[str, ...] = ()
    seconds: float = 0.0


Make = Callable[..., list[Made]]  # of facts, and of their starts where a client begins warm: as `Maker.__call__`


class Maker:
    """Makes what it has not made yet; `maker(facts)` gives one `Made` for each fact.

    compute: from facts to MKVs; shipped, cached or optimised ones (`stored_mkvs`) by default.
    """

    def __init__(self, lm: "LanguageModel", compute: Callable[[Sequence[Fact]], list[Mkv]] | None = None) -> None:
        self.lm = lm
        self._compute = compute or (lambda facts: stored_mkvs(lm, facts))
        self._made: dict[tuple, Made] = {}

    def __call__(self, facts: Sequence[Fact], starts: Sequence[Start] | None = None) -> list[Made]:
        """One `Made` for each fact; a fact whose start is warm is optimised from there, with the preset's MEMIT."""
        wanted = list(zip(facts, starts or [COLD] * len(facts), strict=True))
        missing = {_key(*one): one for one in wanted if _key(*one) not in self._made}
        for warm in (False, True):
            part = {key: one for key, one in missing.items() if bool(one[1].of) == warm}
            if part:
                self._made |= zip(part, self._timed(*zip(*part.values(), strict=True)), strict=True)
        return [self._made[_key(*one)] for one in wanted]

    def _timed(self, facts: tuple[Fact, ...], starts: tuple[Start, ...]) -> list[Made]:
        """Facts that all start cold, or all warm."""
        begin = time.perf_counter()
        if starts[0].of:
            mkvs = compute_mkvs(self.lm, facts, starts=torch.stack([start.residual for start in starts]))
        else:
            mkvs = self._compute(facts)
        paths = trajectories(self.lm, facts, mkvs)
        seconds = (time.perf_counter() - begin) / len(facts)
        return [Made(mkv, path, start.of, seconds) for mkv, path, start in zip(mkvs, paths, starts, strict=True)]


def _key(fact: Fact, start: Start) -> tuple:
    return fact.subject, fact.prompt, fact.target_new, start.of
