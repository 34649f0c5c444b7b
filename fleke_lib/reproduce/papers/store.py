"""What a long run keeps on disk, so that an interrupted one goes on where it was.

Everything is written to a temporary name and renamed, and is found again under a digest of all that it depends on. So
two runs may share a folder, more facts may be asked for later, and nothing is ever taken for what it is not.

    kept/      small things that must not be drawn anew: context prefixes, clusters
    made/      MKVs and trajectories, 64 facts a file
    scores/    what a model with an edit answered, 200 facts a file
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence

from fleke_lib.edit.trajectories import Trajectory, trajectories
from fleke_lib.evaluation.results import Evaluation
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.provider import PreparedFact
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.storage.files import half_made

TOGETHER = 64  # facts in a file of made/
ASKED = 200  # facts in a file of scores/

Progress = Callable[[str], None]  # is told what has just been written


def digest(*things: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(things, sort_keys=True, default=str).encode()).hexdigest()


def asks(fact: Fact) -> tuple[str, str, str]:
    """What an MKV depends on in a fact."""
    return fact.subject, fact.prompt, fact.target_new


def kept(folder: Path, name: str, key: str, make: Callable[[], Any]) -> Any:
    """What `make` returned the first time, as JSON gives it back."""
    path = folder / "kept" / f"{name}-{key[:16]}.json"
    if not path.exists():
        write_json(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """Write a value, whole or not at all."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a text, whole or not at all."""
    with half_made(path) as half:
        half.write_text(text, encoding="utf-8")
    return path


@contextmanager
def timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    """Adds the block's seconds to a step's."""
    begin = time.perf_counter()
    yield
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - begin


class Workshop:
    """MKVs and trajectories by fact, made once and read from disk whenever they are asked for: a `federation.Make`.

    At the size of GPT-J a fact takes 2.4 MB, so that ten thousand of them are not held in memory.

    Args:
        folder: the run's. key: of everything that they depend on but the fact. together: facts in a file.
    """

    def __init__(self, lm: LanguageModel, folder: Path, key: str, together: int = TOGETHER) -> None:
        self.lm, self.key, self.folder, self.together = lm, key, folder / "made", together
        self.layers = lm.preset.layers
        self.fingerprint = lm.fingerprint(self.layers)
        self.seconds = 0.0  # of everything that is here, whenever it was made
        self._places: dict[str, tuple[Path, int, float]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            self._learn(path)

    def fill(self, facts: Sequence[Fact], progress: Progress) -> None:
        """Make what is missing."""
        missing = [fact for fact in facts if self._name(fact) not in self._places]
        progress(f"MKVs and trajectories: {len(facts) - len(missing)} of {len(facts)} are here")
        for start in range(0, len(missing), self.together):
            part = missing[start : start + self.together]
            path = self._make(part)
            self._learn(path)
            each = self._places[self._name(part[0])][2]
            progress(f"MKVs and trajectories: {start + len(part)} of {len(missing)} made, {each:.2f} s a fact")

    def __call__(self, facts: Sequence[Fact], starts: Sequence | None = None) -> list[PreparedFact]:
        """One for each fact; every start is cold here."""
        return [self._read(*self._places[self._name(fact)]) for fact in facts]

    def mkvs(self, facts: Sequence[Fact]) -> list[Mkv]:
        """The MKVs alone."""
        return [prepared.mkv for fact in facts for prepared in self([fact])]

    def _name(self, fact: Fact) -> str:
        return digest(self.key, asks(fact))

    def _make(self, facts: Sequence[Fact]) -> Path:
        begin = time.perf_counter()
        mkvs = compute_mkvs(self.lm, facts)
        paths = trajectories(self.lm, facts, mkvs)
        tensors = {name: torch.stack([getattr(mkv, name) for mkv in mkvs]).float().cpu() for name in ("z", "h")}
        tensors |= {"loss": torch.tensor([mkv.loss for mkv in mkvs]), "steps": torch.tensor([m.steps for m in mkvs])}
        for layer in self.layers:
            tensors[f"keys.{layer}"] = torch.stack([path.keys[layer] for path in paths]).float()
            tensors[f"shares.{layer}"] = torch.stack([path.shares[layer] for path in paths]).float()
            rows = [path.bystanders[layer] for path in paths]  # as many as a prompt has words; rows of 0 change no sum
            tensors[f"bystanders.{layer}"] = pad_sequence(rows, batch_first=True).float()
        names = [self._name(fact) for fact in facts]
        about = {"names": json.dumps(names), "key": self.key, "seconds": str(time.perf_counter() - begin)}
        target = self.folder / f"{digest(*names)[:32]}.safetensors"
        with half_made(target) as half:
            save_file(tensors, half, metadata=about)
        return target

    def _learn(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            about = file.metadata()
        if about["key"] == self.key:
            names, seconds = json.loads(about["names"]), float(about["seconds"])
            self._places |= {name: (path, row, seconds / len(names)) for row, name in enumerate(names)}
            self.seconds += seconds

    def _read(self, path: Path, row: int, seconds: float) -> PreparedFact:
        with safe_open(path, "pt") as file:
            one = {name: file.get_slice(name)[row] for name in file.keys()}  # noqa: SIM118
        mkv = Mkv(one["z"], one["h"], {}, float(one["loss"]), int(one["steps"]))
        names = ("keys", "shares", "bystanders")
        keys, shares, others = ({layer: one[f"{name}.{layer}"] for layer in self.layers} for name in names)
        return PreparedFact(mkv, Trajectory(keys, shares, self.fingerprint, others), seconds=seconds)


def read_scores(path: Path, facts: Sequence[Fact]) -> tuple[Evaluation, float]:
    """An evaluation that `write_scores` wrote, and the seconds that it took."""
    found = json.loads(path.read_text(encoding="utf-8"))
    columns = {n: np.array([np.nan if v is None else v for v in c]) for n, c in found["per_fact"].items()}
    return Evaluation(tuple(facts), columns), found["seconds"]


def write_scores(path: Path, evaluation: Evaluation, seconds: float) -> None:
    """Numbers per fact, and the seconds that they took."""
    write_json(path, {"per_fact": evaluation.to_dict()["per_fact"], "seconds": seconds})
