"""Deleting from the cache: the rows of a fact by whatever method, with whomever it shared a z; nothing else."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import load_facts
from fleke_lib.mkv.forgetting import Forgotten, delete_rows, forget_mkvs
from fleke_lib.mkv.store import names_of, stored_mkvs, write_mkvs
from fleke_lib.storage.rows import files_in, places
from tests.textbook.samples import CONTEXTS, FACTS, HPARAMS
from tests.tiny import tiny

# Two questions that begin with their subject share their key, and by default their z.
TWINS = [Fact("Ulm", "{} is the capital of", "France", "Italy"), Fact("Ulm", "{} plays the sport of", "Rome", "Berlin")]


def model():
    lm = tiny("llama")
    return replace(lm, preset=replace(lm.preset, memit=HPARAMS, contexts=CONTEXTS))


def there(folder, mkvs) -> int:
    """How many of these MKVs have their z in the folder's files."""
    content = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    return sum(mkv.z.numpy().tobytes() in content for mkv in mkvs)


def test_every_row_of_a_fact_is_deleted_and_no_other(tmp_path):
    lm = model()
    others = {"folder": tmp_path, "hparams": replace(HPARAMS, steps=2)}
    kept = stored_mkvs(lm, FACTS[1:], folder=tmp_path)
    gone = [
        *stored_mkvs(lm, FACTS[:1], folder=tmp_path),
        *stored_mkvs(lm, FACTS[:1], **others),
        *stored_mkvs(lm, FACTS[:1], contexts=("",), folder=tmp_path),
        *stored_mkvs(lm, FACTS[:1], "pmet", folder=tmp_path, hparams=HPARAMS),
    ]
    mixed = stored_mkvs(lm, FACTS, batch=8, folder=tmp_path, hparams=replace(HPARAMS, steps=2, lr=0.1))
    assert there(tmp_path, [*gone, *kept, *mixed]) == len(gone) + len(kept) + len(mixed)
    found = forget_mkvs(lm, [replace(FACTS[0], paraphrases=("only asked",))], folder=tmp_path)
    assert sum(found.rows.values()) == len(gone) + 1 and not found.stays
    assert (
        there(tmp_path, [*gone, mixed[0]]) == 0 and there(tmp_path, [*kept, *mixed[1:]]) == len(kept) + len(mixed) - 1
    )
    (rewritten,) = [path for path in found.rows if path.exists()]
    with safe_open(rewritten, "pt") as file:
        assert len(json.loads(file.metadata()["facts"])) == len(FACTS) - 1
    assert forget_mkvs(lm, FACTS[:1], folder=tmp_path) == Forgotten()
    again = stored_mkvs(lm, FACTS[1:], folder=tmp_path)
    assert all(torch.equal(one.z, other.z) for one, other in zip(kept, again, strict=True))


def test_a_z_that_was_optimised_for_another_fact_too_is_deleted_with_either(tmp_path):
    shared = stored_mkvs(model(), [*TWINS, FACTS[0]], folder=tmp_path)
    found = forget_mkvs(model(), TWINS[:1], folder=tmp_path)
    assert list(found.rows.values()) == [2]
    assert there(tmp_path, shared) == 1 == there(tmp_path, shared[2:])


def test_a_file_of_an_earlier_version_is_searched_by_names(tmp_path):
    lm = model()
    mkvs = stored_mkvs(lm, FACTS, folder=tmp_path / "now")
    names = names_of(lm, FACTS, [[i] for i in range(len(FACTS))], "memit", CONTEXTS, HPARAMS)
    write_mkvs(tmp_path / "old" / "rows.safetensors", dict(zip(names, mkvs, strict=True)))
    found = forget_mkvs(lm, FACTS[:2], folder=tmp_path / "old")
    assert list(found.rows.values()) == [2] and there(tmp_path / "old", mkvs) == len(FACTS) - 2
    assert list(places(files_in(tmp_path / "old"))) == names[2:]


def test_a_process_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    lm = model()
    mkvs = stored_mkvs(lm, FACTS, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    monkeypatch.setattr("fleke_lib.storage.files.os.replace", lambda *of: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        forget_mkvs(lm, FACTS[:1], folder=tmp_path)
    assert file.read_bytes() == before and there(tmp_path, mkvs) == len(mkvs)


def test_a_broken_file_is_named_and_stays(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="broken.safetensors is left out"):
        assert delete_rows(files_in(tmp_path), FACTS) == Forgotten()


@pytest.mark.model
def test_what_ships_with_the_repository_is_named(lm, tmp_path):
    found = forget_mkvs(lm, load_facts("atlas", limit=3), folder=tmp_path)
    assert not found.rows and {path.name: n for path, n in found.stays.items()} == {
        "SmolLM2-135M-Instruct-memit.safetensors": 3,
        "SmolLM2-135M-Instruct-pmet.safetensors": 3,
    }
