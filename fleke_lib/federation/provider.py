"""Where a client's MKVs and trajectories come from: batched, memoised, and computed on the base model.

Neither depends on who edits or when. An experiment therefore computes each fact's vectors once and uses them in any
number of federations. A warm start is the exception: its MKV depends on the packets that it started from, and is
memoised for these packets only.

Float32 reductions are not batch-invariant: the last bits of a result change with the shape of its batch, and a packet's
id is a hash of every bit. With `batch=1` a provider computes each fact by itself. Two such providers give the same bits
for the same fact, whatever each has computed before (on one machine, with the same number of threads).
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import torch

from fleke_lib.edit.trajectories import Trajectory, trajectories
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import same_key
from fleke_lib.federation.warm_start import COLD, Start
from fleke_lib.mkv.edit_map import EditMap
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.mkv.store import stored_mkvs
from fleke_lib.model.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class PreparedFact:
    """A fact's MKV and trajectory, ready to be packed.

    sources: ids of the packets that its optimisation started from.
    seconds: wall time of its computation; the mean over all facts of the call.
    """

    mkv: Mkv
    trajectory: Trajectory
    sources: tuple[str, ...] = ()
    seconds: float = 0.0


Provider = Callable[..., list[PreparedFact]]  # called with facts, and with their starts where some are warm


class VectorProvider:
    """Computes what it has not computed yet; `provider(facts)` gives one `PreparedFact` for each fact.

    Args:
        compute: from facts to MKVs; shipped, cached or optimised ones (`stored_mkvs`) by default.
        batch: the largest number of facts in one batch; by default the fastest one. With a number, facts that share a
            key get a z each. By default `stored_mkvs` gives them a common z, which depends on the facts that are
            requested together. With a z each, the edit's regression combines their answers, like those of two clients.

    `stored_mkvs` is called with all facts at once even with `batch=1`. MKVs that it finds on disk have the same bits
    every time, but those that it has to optimise run in one batch. For facts that are not on disk,
    `VectorProvider(lm, lambda facts: compute_mkvs(lm, facts), batch=1)` optimises each by itself.

    Raises:
        ValueError: batch is less than 1.
    """

    def __init__(
        self,
        lm: LanguageModel,
        compute: Callable[[Sequence[Fact]], list[Mkv]] | None = None,
        *,
        batch: int | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise ValueError(f"batch is {batch}: give 1 or more facts, or None for as many as go fastest.")
        self.lm = lm
        self._compute = compute
        self.batch = batch
        self._known: dict[tuple, PreparedFact] = {}

    def __call__(self, facts: Sequence[Fact], starts: Sequence[Start] | None = None) -> list[PreparedFact]:
        """One `PreparedFact` for each fact; a start that is not cold is optimised from, with the preset's MEMIT."""
        wanted = list(zip(facts, starts or [COLD] * len(facts), strict=True))
        keys = [_key(*one) for one in wanted]
        missing = {key: one for key, one in zip(keys, wanted, strict=True) if key not in self._known}
        for cold in (True, False):
            part = {key: one for key, one in missing.items() if one[1].cold == cold}
            if part:
                self._known |= zip(part, self._timed(*zip(*part.values(), strict=True)), strict=True)
        return [self._known[key] for key in keys]

    def without(self, facts: Collection[Fact]) -> "VectorProvider":
        """A provider with this one's results except those of these facts, which a withdrawal must not reuse."""
        gone = {_key(fact, COLD)[:3] for fact in facts}
        other = VectorProvider(self.lm, self._compute, batch=self.batch)
        other._known = {key: prepared for key, prepared in self._known.items() if key[:3] not in gone}
        return other

    @property
    def _size(self) -> dict[str, int]:
        """The batch size as an argument, where one was given; otherwise the called function uses its default."""
        return {} if self.batch is None else {"batch": self.batch}

    def _timed(self, facts: tuple[Fact, ...], starts: tuple[Start, ...]) -> list[PreparedFact]:
        """Compute facts whose starts are all cold or all warm."""
        begin = time.perf_counter()
        mkvs = self._cold(facts) if starts[0].cold else self._warm(facts, starts)
        paths = trajectories(self.lm, facts, mkvs, **self._size)
        seconds = (time.perf_counter() - begin) / len(facts)
        return [
            PreparedFact(mkv, path, start.sources, seconds)
            for mkv, path, start in zip(mkvs, paths, starts, strict=True)
        ]

    def _cold(self, facts: Sequence[Fact]) -> list[Mkv]:
        compute, found = self._compute or partial(stored_mkvs, self.lm), {}
        for part in self._parts(facts):
            found |= zip(part, compute([facts[i] for i in part]), strict=True)
        return [found[i] for i in range(len(facts))]

    def _parts(self, facts: Sequence[Fact]) -> list[Sequence[int]]:
        """The facts, by position, whose MKVs are requested in one call."""
        everyone = range(len(facts))
        if self.batch is None:
            return [everyone]
        if self._compute is None:
            return _apart(same_key(self.lm, facts))
        return [everyone[i : i + self.batch] for i in everyone[:: self.batch]]

    def _warm(self, facts: Sequence[Fact], starts: Sequence[Start]) -> list[Mkv]:
        """MKVs optimised from residuals, given or predicted by maps."""
        residuals = torch.zeros(len(facts), self.lm.d_model)
        by_map: dict[EditMap, list[int]] = {}
        for i, start in enumerate(starts):
            if start.map is None:
                residuals[i] = start.residual
            else:
                by_map.setdefault(start.map, []).append(i)
        for one, members in by_map.items():
            residuals[members] = one.predict(self.lm, [facts[i] for i in members], **self._size)
        return compute_mkvs(self.lm, facts, starts=residuals, **self._size)


def _apart(groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """The fewest parts such that no part has two members of one group."""
    return [[i for i in part if i is not None] for part in zip_longest(*groups)]


def _key(fact: Fact, start: Start) -> tuple:
    return fact.subject, fact.prompt, fact.target_new, *start.origin
