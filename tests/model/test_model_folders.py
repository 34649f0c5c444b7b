"""Models in folders that are not whole: one sentence says which part is missing and how to mend it."""

import os
import re
from pathlib import Path

import pytest

from fleke_lib.model import shipped
from fleke_lib.model.language_model import load_model
from tests.tiny import KINDS, tiny


def save(lm, folder):
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_its_tokenizer_is_refused(kind, tmp_path):
    tiny(kind).model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"' has no tokenizer that can be read: save it there as well, with \w+\.$"):
        load_model(tmp_path)


BREAK = {"cut": lambda path: os.truncate(path, 200), "empty": lambda path: os.truncate(path, 0), "gone": Path.unlink}


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("file, says", [("model.safetensors", "has no whole weights"), ("tokenizer.json", "tokenizer")])
def test_a_folder_with_a_broken_file_is_refused(file, says, how, tmp_path):
    save(tiny("llama"), tmp_path)
    load_model(tmp_path)
    BREAK[how](tmp_path / file)
    with pytest.raises(ValueError, match=rf"^'{tmp_path}' .*{says}.*: .* again\.$|tokenizer .*: save .*\.$") as error:
        load_model(tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def refused_in_the_cache(folder):
    wanted = f"{folder}, the default model in the cache, is not whole: delete it and run again."
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        load_model()


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """The folder of the default model in an empty cache."""
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path))
    return tmp_path / "models" / f"{shipped.NAME}-{shipped.SHA256[:12]}"


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_default_model_in_the_cache_is_named(file, how, cached):
    save(tiny("llama"), cached)
    BREAK[how](cached / file)
    refused_in_the_cache(cached)


def test_an_empty_folder_or_a_file_in_the_place_of_the_default_model_is_named(cached):
    cached.mkdir(parents=True)
    refused_in_the_cache(cached)
    cached.rmdir()
    cached.touch()
    refused_in_the_cache(cached)
