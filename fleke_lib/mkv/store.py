"""MKVs on disk: shipped with the repository, cached, or computed now and then cached.

An MKV's z depends only on the weights, the questions, subjects and targets of its fact and of the facts that share its
z, the contexts and the hyperparameters of the objective. z and h are stored under a digest of all these. Keys are not
stored: they are large, and one pass of the base model computes them again.

What is stored was computed alone, so that its last bits do not depend on the facts that were requested with it. Each
file also lists digests of the facts that each row was computed from, and `fleke_lib.mkv.forgetting` deletes by them.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fleke_lib.facts.contexts import check_contexts, contexts_for
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.facts.prompts import same_key
from fleke_lib.mkv.mkv import Mkv, Unconverged, compute_mkvs, warn_unconverged
from fleke_lib.mkv.pmet import pmet_mkvs
from fleke_lib.model.digest import weights_digest
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import Hparams, chosen
from fleke_lib.storage.files import DATA, cache, part_of_repository, user_path
from fleke_lib.storage.rows import files_in, places, read_rows, write_rows

SHIPPED = DATA / "mkvs"
COMPUTE: Mapping[str, Callable] = {"memit": compute_mkvs, "pmet": pmet_mkvs}
UNUSED = ("lam", "layers", "nullspace", "ridge")  # hyperparameters of the write; z depends on the last layer only
FACTS = "facts"  # in a file's metadata
PART = 32  # groups of facts that are computed and stored at a time; an interrupted run resumes there


def stored_mkvs(
    lm: LanguageModel,
    facts: Sequence[Fact],
    method: str = "memit",
    contexts: tuple[str, ...] | None = None,
    hparams: Hparams | None = None,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    batch: int = 1,
    folder: Path | None = None,
) -> list[Mkv]:
    """The MKVs of facts, without keys; those that are not on disk yet are computed and stored.

    Warns if most of the new ones did not converge.

    Args:
        method: whose objective to minimise, "memit" or "pmet".
        contexts: prefixes, the first one `""`; the model's own by default.
        hparams: the preset's for the method by default.
        groups: indices of facts that get one common z; by default those with the same key, as in `edit.memit`.
        batch: number of facts optimised together. With 1, an MKV is bit for bit independent of the other facts (on one
            machine with a fixed number of threads). With more it is faster, the last digits depend on the batch, and
            results are stored apart: they are found with the same `batch` only.
        folder: where computed MKVs are stored; `mkvs` in the user's cache by default.

    Raises:
        ValueError: neither `hparams` nor the preset has hyperparameters for the method.
    """
    check_list(facts)
    hparams = chosen(hparams, lm.preset, method)
    contexts = check_contexts(contexts or contexts_for(lm))
    folder = mkv_folder(folder)
    groups = same_key(lm, facts) if groups is None else groups
    names = names_of(lm, facts, groups, method, contexts, hparams)
    found = _read([*files_in(folder), *_shipped(lm, method)], names)
    if batch > 1:  # for those that were not computed alone
        names = [name if name in found else _digest(name, batch) for name in names]
        found |= _read(files_in(folder), names)
    missing = [group for group in groups if any(names[i] not in found for i in group)]
    for i in range(0, len(missing), PART):
        part = missing[i : i + PART]
        members = [fact for group in part for fact in group]
        place = {fact: n for n, fact in enumerate(members)}
        inner = [[place[fact] for fact in group] for group in part]
        with warnings.catch_warnings():  # one warning a call, below, and not one a part
            warnings.simplefilter("ignore", Unconverged)
            asked = [facts[fact] for fact in members]
            mkvs = COMPUTE[method](lm, asked, contexts, hparams, groups=inner, batch=batch, keys=())
        new = {names[fact]: mkv for fact, mkv in zip(members, mkvs, strict=True)}
        sources = {names[fact]: digests_of(facts[i] for i in group) for group in part for fact in group}
        write_mkvs(folder / f"{_digest(*new)}.safetensors", new, about_facts(sources[name] for name in new))
        found |= new
    warn_unconverged([found[names[i]] for group in missing for i in group], stacklevel=3)
    return [found[name] for name in names]


def mkv_folder(folder: Path | None = None) -> Path:
    """Where computed MKVs are stored: the given folder, or `mkvs` in the user's cache."""
    return user_path(folder or cache() / "mkvs")


def digests_of(facts: Iterable[Fact]) -> list[str]:
    """A digest of each fact's question, subject and new target, by which `mkv.forgetting` finds its rows."""
    return sorted(_digest(fact.question, fact.subject_span, fact.target_new) for fact in facts)


def about_facts(rows: Iterable[Sequence[str]]) -> dict[str, str]:
    """The entry in a file's metadata that names the facts of each of its rows, by `digests_of`."""
    return {FACTS: json.dumps([list(row) for row in rows])}


def shipped_mkvs(lm: LanguageModel, facts: Sequence[Fact], method: str = "memit") -> list[Mkv]:
    """The MKVs of facts that ship with the repository, without keys; nothing is computed.

    Raises:
        ValueError: some are not shipped for the model's current weights.
        FileNotFoundError: the file is missing, in an installation or in a checkout.
    """
    part_of_repository(SHIPPED)
    check_list(facts)
    names = names_of(lm, facts, same_key(lm, facts), method, contexts_for(lm), chosen(None, lm.preset, method))
    found = _read(_shipped(lm, method), names)
    if missing := [fact for name, fact in zip(names, facts, strict=True) if name not in found]:
        raise ValueError(
            f"{len(missing)} of {len(facts)} MKVs are not shipped for {lm.name} as it is now: "
            "load the default model without edits, or compute them with stored_mkvs."
        )
    return [found[name] for name in names]


def write_mkvs(path: Path, mkvs: Mapping[str, Mkv], about: Mapping[str, str] | None = None) -> None:
    """Write named MKVs as one file of rows: z, h, loss and steps, in the order of the names.

    The names and the entries of `about` go into the file's metadata.
    """
    write_rows(path, {name: mkv_row(mkv) for name, mkv in mkvs.items()}, about)


def mkv_row(mkv: Mkv) -> dict[str, Tensor]:
    """An MKV as a row on disk, without its keys."""
    z, h = mkv.z.float().cpu(), mkv.h.float().cpu()
    return {"z": z, "h": h, "loss": torch.tensor(mkv.loss), "steps": torch.tensor(mkv.steps)}


def mkv_of(row: Mapping[str, Tensor]) -> Mkv:
    """The MKV that `mkv_row` wrote."""
    return Mkv(row["z"], row["h"], {}, float(row["loss"]), int(row["steps"]))


def names_of(
    lm: LanguageModel,
    facts: Sequence[Fact],
    groups: Sequence[Sequence[int]],
    method: str,
    contexts: tuple[str, ...],
    hparams: Hparams,
) -> list[str]:
    """For each fact, the digest of everything that its MKV depends on."""
    objective = {name: value for name, value in hparams.named().items() if name not in UNUSED}
    common = (weights_digest(lm), method, contexts, hparams.layer, objective)
    names = [""] * len(facts)
    for group in groups:
        asked = sorted((facts[i].question, facts[i].subject_span, facts[i].target_new) for i in group)
        for i in group:
            names[i] = _digest(common, asked, facts[i].question, facts[i].target_new)
    return names


def _digest(*things) -> str:
    return hashlib.sha256(json.dumps(things, sort_keys=True).encode()).hexdigest()


def _shipped(lm: LanguageModel, method: str) -> list[Path]:
    """The file of the MKVs that ship for the model, where there is one."""
    path = SHIPPED / f"{lm.preset.model}-{method}.safetensors"
    return [path] if path.exists() else []


def _read(files: Sequence[Path], names: Sequence[str]) -> dict[str, Mkv]:
    """The MKVs of these names, as far as they are in the files."""
    index = places(files)
    here = [name for name in dict.fromkeys(names) if name in index]
    return {name: mkv_of(row) for name, row in zip(here, read_rows([index[name] for name in here]), strict=True)}
