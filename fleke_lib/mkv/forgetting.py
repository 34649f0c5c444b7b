"""Deleting facts from files of MKVs: from the user's cache, and from the folder of a `StoredProvider`.

A row is deleted if one of these facts is among those that it was computed from. Facts with one key can share a z, so a
row of another fact may contain a deleted one. Each file's metadata lists digests of its rows' facts. Files that earlier
versions wrote have no such list: there a row is found by its name, for each method with the model's own contexts and
hyperparameters.

A file is written again without these rows, whole or not at all, or it is deleted if no row is left. Blocks that the
file system has freed, snapshots and backups are out of reach, as for the registry (`federation.registry.erasure`).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fleke_lib.facts.contexts import contexts_for
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.facts.prompts import same_key
from fleke_lib.mkv.store import COMPUTE, FACTS, SHIPPED, about_facts, digests_of, mkv_folder, names_of
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.storage.rows import files_in, places, read_rows, write_rows


@dataclass(frozen=True)
class Forgotten:
    """What was deleted.

    rows: by file, the number of rows that were deleted from it.
    stays: by file, the number of rows that are still there: those that ship with the repository.
    """

    rows: Mapping[Path, int] = field(default_factory=dict)
    stays: Mapping[Path, int] = field(default_factory=dict)

    def __add__(self, other: "Forgotten") -> "Forgotten":
        rows = {path: self.rows.get(path, 0) + other.rows.get(path, 0) for path in {**self.rows, **other.rows}}
        return Forgotten(rows, {**self.stays, **other.stays})


def forget_mkvs(lm: LanguageModel, facts: Sequence[Fact], *, folder: Path | None = None) -> Forgotten:
    """Delete the facts' MKVs from the cache: of every model, method, batch and choice of hyperparameters.

    MKVs that ship with the repository cannot be deleted. The result names their file.

    Args:
        lm: the model by whose weights rows of earlier versions are found.
        folder: where computed MKVs are stored; `mkvs` in the user's cache by default.
    """
    check_list(facts)
    names = _names(lm, facts)
    found = delete_rows(files_in(mkv_folder(folder)), facts, names)
    index = places(files_in(SHIPPED))
    shipped = [index[name][0] for name in names if name in index]
    return Forgotten(found.rows, {path: shipped.count(path) for path in dict.fromkeys(shipped)})


def delete_rows(files: Sequence[Path], facts: Sequence[Fact], names: Collection[str] = ()) -> Forgotten:
    """Delete the rows that were computed from one of these facts, or that have one of these names, from files of rows.

    A file that is not a whole file of rows stays as it is, with a warning that names it.
    """
    gone, deleted = {*digests_of(facts)}, {}
    for path in files:
        index = places([path])
        if not index:
            continue
        about = _about(path)
        listed = json.loads(about.pop(FACTS, "null")) or [[]] * len(index)
        kept = {
            name: sources
            for name, sources in zip(index, listed, strict=True)
            if name not in names and gone.isdisjoint(sources)
        }
        if len(kept) == len(index):
            continue
        deleted[path] = len(index) - len(kept)
        if kept:
            rows = dict(zip(kept, read_rows([index[name] for name in kept]), strict=True))
            write_rows(path, rows, about | about_facts(kept.values()))
        else:
            path.unlink()
    return Forgotten(deleted)


def _names(lm: LanguageModel, facts: Sequence[Fact]) -> set[str]:
    """The names of these facts' MKVs, alone and with those of the same key, by each method that has hyperparameters."""
    alone, found = [[i] for i in range(len(facts))], set()
    for method in COMPUTE:
        if hparams := getattr(lm.preset, method):
            for groups in (alone, same_key(lm, facts)):
                found |= {*names_of(lm, facts, groups, method, contexts_for(lm), hparams)}
    return found


def _about(path: Path) -> dict[str, str]:
    """A file's metadata except the names of its rows."""
    try:
        with safe_open(path, "pt") as file:
            return {name: value for name, value in file.metadata().items() if name != "names"}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read any more ({error}): delete it.") from None
