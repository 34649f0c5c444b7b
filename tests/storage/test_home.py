"""`~` is the home folder in every path that a user gives, also where no shell expands it."""

from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleke_lib import load_facts, load_model, second_moments
from fleke_lib.edit import Edit
from fleke_lib.facts.loading import ATLAS
from fleke_lib.federation import Ledger
from fleke_lib.federation.provider import StoredProvider
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.figures import style
from fleke_lib.mkv.edit_map import EditMap
from fleke_lib.mkv.store import stored_mkvs
from fleke_lib.reproduce.record import Conditions, Record
from fleke_lib.ridge.solve import LowRank
from fleke_lib.storage.files import cache, half_made, user_path
from fleke_lib.unlearn.edits.certificate import Certificate, certify
from fleke_lib.unlearn.edits.traces import traces
from tests.federation.sample_packets import packet_of
from tests.textbook.samples import CONTEXTS, FACTS, HPARAMS
from tests.tiny import tiny


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder; the current folder, another one, must stay empty."""
    folder, current = tmp_path / "home", tmp_path / "current"
    folder.mkdir()
    current.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.chdir(current)
    yield folder
    assert list(current.iterdir()) == []


def test_only_a_tilde_at_the_beginning_is_the_home_folder(home):
    assert user_path("~/a") == user_path(Path("~/a")) == home / "a" and user_path("~") == home
    for other in ("a~", "a/~/b", "~nobody-of-this-name", "/a/b"):
        assert user_path(other) == Path(other)


def test_folders_given_by_the_environment(home, monkeypatch):
    monkeypatch.setenv("FLEKE_CACHE", "~/a cache")
    monkeypatch.setenv(style.VARIABLE, "~/figures")
    assert cache() == home / "a cache" and style.folder() == home / "figures"


def test_what_is_saved_there_is_loaded_from_there(home):
    lm = tiny("llama")
    edit = Edit({1: LowRank(torch.ones(lm.d_model, 1), torch.ones(1, lm.d_mlp))}, lm.fingerprint((1,)))
    assert edit.save("~/edit") == home / "edit" and Edit.load("~/edit").layers == (1,)
    assert edit.to_peft(lm, "~/adapter") == home / "adapter" and len(list((home / "adapter").iterdir())) == 2
    taught = EditMap(torch.zeros(65, 32, dtype=torch.float64), "f")
    assert taught.save("~/map") == home / "map" and EditMap.load("~/map").id == taught.id
    assert Ledger().save("~/ledger") == home / "ledger" and Ledger.load("~/ledger") == Ledger()
    about = {"marks": ("ab",), "when": "2026-01-01T00:00:00Z", "method": "replay", "checks": ()}
    signed = certify(**about, weights_before={}, weights_after={}, key=Ed25519PrivateKey.generate())
    assert signed.save("~/certificate") == home / "certificate" and Certificate.load("~/certificate") == signed
    record = Record(Conditions("m", "f", "smoke", 1, 1, 1, 1, 0, "s", 1, "3", "2", "5"), ())
    assert record.save(Path("~/record")) == home / "record" and Record.load(Path("~/record")) == record
    with half_made(Path("~/half")) as half:
        half.touch()
    assert (home / "half").exists()


def test_a_registry_and_the_search_for_traces(home):
    Registry("~/registry.db").close()
    assert (home / "registry.db").exists()
    assert traces("~", [packet_of(1)]).files == 1


def test_facts_and_a_model(home):
    (home / "facts.json").write_bytes(ATLAS.read_bytes())
    assert len(load_facts("~/facts.json", limit=2)) == 2
    lm = tiny("llama")
    lm.model.save_pretrained(home / "model")
    lm.tokenizer.save_pretrained(home / "model")
    assert load_model("~/model").name == str(home / "model")  # peft opens what an adapter names


def test_folders_of_what_is_computed_once(home):
    lm = tiny("llama")
    stored_mkvs(lm, FACTS[:1], contexts=CONTEXTS, hparams=HPARAMS, folder=Path("~/mkvs"))
    second_moments(lm, [1], ["a text"], folder=Path("~/moments"))
    assert [len(list((home / name).iterdir())) for name in ("mkvs", "moments")] == [1, 1]
    assert StoredProvider(lm, Path("~/made")).folder == home / "made"
