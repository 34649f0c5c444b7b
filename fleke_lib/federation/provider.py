"""Where a client's MKVs and trajectories come from: batched, memoised, and computed on the base model.

Neither depends on who edits or when. An experiment therefore computes each fact's vectors once and uses them in any
number of federations. A warm start is the exception: its MKV depends on the packets that it started from, and is
memoised for these packets only.

Float32 reductions are not batch-invariant: the last bits of a result change with the shape of its batch, and a packet's
id is a hash of every bit. With `batch=1` a provider computes each fact by itself. Two such providers give the same bits
for the same fact, whatever each has computed before (on one machine, with the same number of threads).
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fleke_lib.edit.trajectories import Trajectory, trajectories
from fleke_lib.facts.contexts import contexts_for
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.facts.prompts import same_key
from fleke_lib.federation.warm_start import COLD, Start
from fleke_lib.mkv.edit_map import EditMap
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.mkv.store import mkv_of, mkv_row, stored_mkvs, weights_digest
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.storage.files import user_path
from fleke_lib.storage.rows import files_in, places, read_rows, write_rows

FORMAT = "fleke-prepared-1"
TOGETHER = 64  # facts in a file of vectors


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
            requested together; two answers to one question never share a z. With a z each, the edit's regression
            combines their answers, like those of two clients.

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
        check_list(facts)
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
            return [everyone] if self._compute else _one_answer_each(facts)
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


class StoredProvider(VectorProvider):
    """A `VectorProvider` that keeps on disk what starts cold, and reads a fact when it is asked for.

    For runs that outlive a process and whose vectors are larger than memory: at the size of GPT-J a fact takes 2.4 MB.
    A fact's place on disk is found by a digest of all that its vectors depend on, so that runs of other models may
    share a folder. MKVs are optimised here, each for itself.

    Args:
        folder: where files are kept. together: facts in a file, which is what an interruption can lose.
        progress: is given a line when there is something to compute, and after each file.

    Raises:
        ValueError: when vectors are to be computed and the weights are no longer those that it was made for.
    """

    def __init__(
        self,
        lm: LanguageModel,
        folder: Path,
        *,
        batch: int | None = None,
        together: int = TOGETHER,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        super().__init__(lm, lambda facts: compute_mkvs(lm, facts, keys=(), **self._size), batch=batch)
        self.folder, self.together, self.progress = user_path(folder), together, progress
        self.key = self._depends()
        self._fingerprint = lm.fingerprint(lm.preset.layers)
        self._places = places(files_in(self.folder))

    def __call__(self, facts: Sequence[Fact], starts: Sequence[Start] | None = None) -> list[PreparedFact]:
        check_list(facts)
        wanted = list(zip(facts, starts or [COLD] * len(facts), strict=True))
        cold = [fact for fact, start in wanted if start.cold]
        self.fill(cold)
        stored = iter(read_rows([self._places[self._name(fact)] for fact in cold]))
        return [
            self._read(next(stored)) if start.cold else super(StoredProvider, self).__call__([fact], [start])[0]
            for fact, start in wanted
        ]

    def seconds(self, facts: Sequence[Fact]) -> float:
        """What computing these facts took, whenever that was."""
        here = [self._places[self._name(fact)] for fact in facts]
        return sum(float(row["seconds"]) for row in read_rows(here, ["seconds"]))

    def without(self, facts: Collection[Fact]) -> "StoredProvider":
        """As `VectorProvider.without`; what is on disk stays there, and is not read by the new provider."""
        other, gone = copy(self), {self._name(fact) for fact in facts}
        other._places = {name: place for name, place in self._places.items() if name not in gone}
        other._known = super().without(facts)._known
        return other

    def fill(self, facts: Sequence[Fact]) -> None:
        """Compute and keep what is not on disk, `together` facts a file."""
        wanted = {self._name(fact): fact for fact in facts}
        missing = [fact for name, fact in wanted.items() if name not in self._places]
        if not missing:
            return
        if self._depends() != self.key:
            raise ValueError(
                f"the weights of {self.lm.name} have changed since this provider was made: remove the edits, or make "
                "a provider for the model as it is now."
            )
        self.progress(f"MKVs and trajectories: {len(wanted) - len(missing)} of {len(wanted)} are here")
        for start in range(0, len(missing), self.together):
            part = tuple(missing[start : start + self.together])
            prepared = self._timed(part, (COLD,) * len(part))
            rows = dict(zip(map(self._name, part), _rows(prepared), strict=True))
            path = write_rows(self.folder / f"{_digest(*rows)[:32]}.safetensors", rows)
            self._places |= places([path])
            done, each = start + len(part), prepared[0].seconds
            self.progress(f"MKVs and trajectories: {done} of {len(missing)} made, {each:.2f} s a fact")

    def _read(self, row: Mapping[str, Tensor]) -> PreparedFact:
        layers, kinds = self.lm.preset.layers, ("keys", "shares", "bystanders")
        keys, shares, others = ({layer: row[f"{kind}.{layer}"] for layer in layers} for kind in kinds)
        path = Trajectory(keys, shares, self._fingerprint, others)
        return PreparedFact(mkv_of(row), path, seconds=float(row["seconds"]))

    def _depends(self) -> str:
        """The digest of everything but the fact: the model, how it is run, and what computes with it."""
        lm, versions = self.lm, (torch.__version__, transformers.__version__)
        run = (weights_digest(lm), str(lm.model.dtype), lm.device.type, versions, self.batch)
        return _digest(FORMAT, run, contexts_for(lm), asdict(lm.preset.memit), lm.preset.layers)

    def _name(self, fact: Fact) -> str:
        return _digest(self.key, _key(fact, COLD)[:3])


def _rows(prepared: Sequence[PreparedFact]) -> list[dict[str, Tensor]]:
    """Prepared facts as rows on disk; bystanders are filled up with rows of zeros, which change no sum."""
    paths = [one.trajectory for one in prepared]
    rows = [mkv_row(one.mkv) | {"seconds": torch.tensor(one.seconds, dtype=torch.float64)} for one in prepared]
    for layer in paths[0].layers:
        others = pad_sequence([path.bystanders[layer] for path in paths], batch_first=True)
        for row, path, padded in zip(rows, paths, others, strict=True):
            named = {"keys": path.keys[layer], "shares": path.shares[layer], "bystanders": padded}
            row |= {f"{kind}.{layer}": vectors.float().cpu() for kind, vectors in named.items()}
    return rows


def _one_answer_each(facts: Sequence[Fact]) -> list[list[int]]:
    """The fewest parts such that no question has two answers in one part; the order of the facts decides nothing."""
    answers: dict[str, set[str]] = {}
    for fact in facts:
        answers.setdefault(fact.question, set()).add(fact.target_new)
    parts: dict[int, list[int]] = {}
    for i, fact in enumerate(facts):
        parts.setdefault(sorted(answers[fact.question]).index(fact.target_new), []).append(i)
    return [*parts.values()]


def _apart(groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """The fewest parts such that no part has two members of one group."""
    return [[i for i in part if i is not None] for part in zip_longest(*groups)]


def _key(fact: Fact, start: Start) -> tuple:
    return fact.subject, fact.prompt, fact.target_new, *start.origin


def _digest(*things: Any) -> str:
    return hashlib.sha256(json.dumps(things, sort_keys=True).encode()).hexdigest()
