"""Where a client's MKVs and trajectories come from: computed on the base model, one fact at a time, and memoised.

Neither depends on who edits or when. An experiment therefore computes each fact's vectors once and uses them in any
number of federations. A warm start is the exception: its MKV depends on the packets that it started from, and is
memoised for these packets only.

Float32 reductions are not batch-invariant: the last bits of a result change with the shape of its batch, and a packet's
id is a hash of every bit. A provider therefore computes each fact by itself, unless it is given a larger `batch`. Two
such providers give the same bits for the same fact, whatever each has computed before (on one machine, with the same
number of threads).
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fleke_lib.edit.trajectories import Trajectory, trajectories
from fleke_lib.facts.contexts import contexts_for
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.federation.warm_start import COLD, Start
from fleke_lib.mkv.edit_map import EditMap
from fleke_lib.mkv.forgetting import Forgotten, delete_rows, forget_mkvs
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.mkv.store import about_facts, digests_of, mkv_of, mkv_row, stored_mkvs
from fleke_lib.model.digest import weights_digest
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import Hparams
from fleke_lib.storage.files import user_path
from fleke_lib.storage.rows import files_in, places, read_rows, write_rows

FORMAT = "fleke-prepared-2"
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

    Every fact gets a z of its own. Facts that share a key do, too: a common z would depend on the facts that are
    requested together. The edit's regression combines their answers, like those of several clients.

    Args:
        compute: from facts to MKVs, called with at most `batch` facts; by default shipped, cached or optimised ones
            (`stored_mkvs`).
        batch: number of facts computed together. With 1, the default, a fact's bits do not depend on other facts, so
            that a withdrawal gives the bits of the run that never was. With more it is faster: on the default model
            trajectories take a third of the time with 24, and optimising MKVs 0.6 of it with 8. The last digits of the
            results then depend on which facts are requested together.
        hparams: MEMIT's hyperparameters for the MKVs; the preset's by default.

    Raises:
        ValueError: batch is less than 1, or `hparams` has other layers than the model's preset, or comes together with
            `compute`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        compute: Callable[[Sequence[Fact]], list[Mkv]] | None = None,
        *,
        batch: int = 1,
        hparams: Hparams | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch}: give the number of facts to compute together, from 1.")
        if hparams and compute:
            raise ValueError("hparams and compute are given: give one of them, since compute has its own.")
        if hparams and hparams.layers != lm.preset.layers:
            raise ValueError(
                f"hparams has the layers {hparams.layers}, but trajectories are made for {lm.preset.layers}: give "
                "dataclasses.replace(lm, preset=dataclasses.replace(lm.preset, memit=hparams)) as the model instead."
            )
        self.lm = lm
        self._compute = compute
        self.batch = batch
        self.hparams = hparams
        self._known: dict[tuple, PreparedFact] = {}

    def __call__(self, facts: Sequence[Fact], starts: Sequence[Start] | None = None) -> list[PreparedFact]:
        """One `PreparedFact` for each fact; a start that is not cold is optimised from."""
        check_list(facts)
        wanted = list(zip(facts, starts or [COLD] * len(facts), strict=True))
        keys = [_key(*one) for one in wanted]
        missing = {key: one for key, one in zip(keys, wanted, strict=True) if key not in self._known}
        for cold in (True, False):
            part = {key: one for key, one in missing.items() if one[1].cold == cold}
            if part:
                self._known |= zip(part, self._timed(*zip(*part.values(), strict=True)), strict=True)
        return [self._known[key] for key in keys]

    def known(self, fact: Fact) -> PreparedFact | None:
        """What has been computed of a fact from a cold start, if it is in memory."""
        return self._known.get(_key(fact, COLD))

    def without(self, facts: Collection[Fact]) -> "VectorProvider":
        """A provider with this one's results except those of these facts, which a withdrawal must not reuse.

        This provider and files on disk stay as they are; `forget` deletes there.
        """
        other = copy(self)
        other._known = dict(self._known)
        other._drop(facts)
        return other

    def forget(self, facts: Collection[Fact]) -> Forgotten:
        """Delete what is kept of these facts: in this provider, and their MKVs in the user's cache on disk."""
        self._drop(facts)
        return forget_mkvs(self.lm, list(facts))

    def _drop(self, facts: Collection[Fact]) -> None:
        gone = {_key(fact, COLD)[:3] for fact in facts}
        self._known = {key: prepared for key, prepared in self._known.items() if key[:3] not in gone}

    def _timed(self, facts: tuple[Fact, ...], starts: tuple[Start, ...]) -> list[PreparedFact]:
        """Compute facts whose starts are all cold or all warm."""
        begin = time.perf_counter()
        mkvs = self._cold(facts) if starts[0].cold else self._warm(facts, starts)
        paths = trajectories(self.lm, facts, mkvs, batch=self.batch)
        seconds = (time.perf_counter() - begin) / len(facts)
        return [
            PreparedFact(mkv, path, start.sources, seconds)
            for mkv, path, start in zip(mkvs, paths, starts, strict=True)
        ]

    def _cold(self, facts: Sequence[Fact]) -> list[Mkv]:
        if self._compute is None:  # all in one call: each look-up reads all weights
            own = [[i] for i in range(len(facts))]
            return stored_mkvs(self.lm, facts, hparams=self.hparams, groups=own, batch=self.batch)
        parts = [facts[i : i + self.batch] for i in range(0, len(facts), self.batch)]
        return [mkv for part in parts for mkv in self._compute(part)]

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
            residuals[members] = one.predict(self.lm, [facts[i] for i in members], batch=self.batch)
        return compute_mkvs(self.lm, facts, hparams=self.hparams, starts=residuals, batch=self.batch)


class StoredProvider(VectorProvider):
    """A `VectorProvider` that keeps on disk what starts cold, and reads a fact when it is asked for.

    For runs that outlive a process and whose vectors are larger than memory: at the size of GPT-J a fact takes 2.4 MB.
    A fact's place on disk is found by a digest of all that its vectors depend on, so that runs of other models may
    share a folder. MKVs are optimised here, each for itself.

    Args:
        folder: where files are kept. together: facts in a file, which is what an interruption can lose.
        batch, hparams: as for `VectorProvider`.
        progress: is given a line when there is something to compute, and after each file.

    Raises:
        ValueError: when vectors are to be computed and the weights are no longer those that it was made for.
    """

    def __init__(
        self,
        lm: LanguageModel,
        folder: Path,
        *,
        batch: int = 1,
        hparams: Hparams | None = None,
        together: int = TOGETHER,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        super().__init__(lm, batch=batch, hparams=hparams)
        self._compute = partial(compute_mkvs, lm, hparams=hparams, batch=batch, keys=())
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

    def forget(self, facts: Collection[Fact]) -> Forgotten:
        """As `VectorProvider.forget`, and delete the facts' rows in this folder, those of other models included."""
        found = super().forget(facts) + delete_rows(files_in(self.folder), list(facts))
        self._places = places(files_in(self.folder))
        return found

    def _drop(self, facts: Collection[Fact]) -> None:
        super()._drop(facts)
        gone = {self._name(fact) for fact in facts}
        self._places = {name: place for name, place in self._places.items() if name not in gone}

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
            about = about_facts(digests_of([fact]) for fact in part)
            path = write_rows(self.folder / f"{_digest(*rows)[:32]}.safetensors", rows, about)
            self._places |= places([path])
            done, each = start + len(part), prepared[0].seconds
            self.progress(f"MKVs and trajectories: {done} of {len(missing)} made, {each:.2f} s a fact")

    def _read(self, row: Mapping[str, Tensor]) -> PreparedFact:
        mkv, layers, kinds = mkv_of(row), self.lm.preset.layers, ("keys", "shares", "bystanders", "bases")
        keys, shares, others, bases = (
            {layer: row[name] for layer in layers if (name := f"{kind}.{layer}") in row} for kind in kinds
        )
        path = Trajectory(keys, shares, self._fingerprint, mkv.z - mkv.h, others, bases)
        return PreparedFact(mkv, path, seconds=float(row["seconds"]))

    def _depends(self) -> str:
        """The digest of everything but the fact: the model, how it is run, and what computes with it."""
        lm, versions = self.lm, (torch.__version__, transformers.__version__)
        run = (weights_digest(lm), str(lm.model.dtype), lm.device.type, versions, self.batch)
        return _digest(FORMAT, run, contexts_for(lm), (self.hparams or lm.preset.memit).named(), lm.preset.layers)

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
            named |= {"bases": path.bases[layer]} if path.bases else {}
            row |= {f"{kind}.{layer}": vectors.float().cpu() for kind, vectors in named.items()}
    return rows


def _key(fact: Fact, start: Start) -> tuple:
    return fact.subject, fact.prompt, fact.target_new, *start.origin


def _digest(*things: Any) -> str:
    return hashlib.sha256(json.dumps(things, sort_keys=True).encode()).hexdigest()
