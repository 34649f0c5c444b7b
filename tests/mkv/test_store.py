"""MKVs on disk: found without reading them, read one by one, and never taken for those of other weights."""

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from fleke_lib.edit import Edit
from fleke_lib.mkv.store import names_of, stored_mkvs
from fleke_lib.ridge.solve import LowRank
from fleke_lib.storage.rows import files_in, places, read_rows, write_rows
from tests.textbook.samples import CONTEXTS, FACTS, HPARAMS
from tests.tiny import tiny


def test_what_is_stored_is_found_again_without_keys_and_an_edited_model_has_its_own(tmp_path):
    lm = tiny("llama")
    arguments = dict(contexts=CONTEXTS, hparams=HPARAMS, folder=tmp_path)
    first = stored_mkvs(lm, FACTS[:2], **arguments)
    (file,) = tmp_path.iterdir()
    both = stored_mkvs(lm, FACTS, **arguments)
    assert len(list(tmp_path.iterdir())) == 2 and all(mkv.keys == {} for mkv in (*first, *both))
    again = stored_mkvs(lm, FACTS[::-1], **arguments)[::-1]
    for one, other in zip(both, again, strict=True):
        assert torch.equal(one.z, other.z) and torch.equal(one.h, other.h)
        assert (one.loss, one.steps) == (other.loss, other.steps)
    assert all(torch.equal(one.z, other.z) for one, other in zip(first, both[:2], strict=True))
    with Edit({1: LowRank(torch.ones(lm.d_model, 1), torch.ones(1, lm.d_mlp))}, lm.fingerprint((1,))).applied(lm):
        edited = stored_mkvs(lm, FACTS, **arguments)
        names = names_of(lm, FACTS, [[i] for i in range(len(FACTS))], "memit", CONTEXTS, HPARAMS)
    assert not any(torch.equal(one.h, other.h) for one, other in zip(both, edited, strict=True))
    assert not set(names) & set(places([file]))


def test_rows_are_found_by_headers_and_each_file_is_opened_once(tmp_path, monkeypatch):
    rows = {f"row {i}": {"a": torch.full((3,), float(i)), "b": torch.tensor(i)} for i in range(5)}
    one = write_rows(tmp_path / "one.safetensors", dict(list(rows.items())[:3]), {"about": "x"})
    two = write_rows(tmp_path / "two.safetensors", dict(list(rows.items())[3:]))
    index = places([one, two])
    assert index["row 4"] == (two, 1) and list(index) == list(rows)
    opened = []
    from fleke_lib.storage import rows as module

    monkeypatch.setattr(
        module, "safe_open", lambda path, *of, real=module.safe_open: opened.append(path) or real(path, *of)
    )
    assert places([one, two]) == index and opened == []  # headers are known
    wanted = ["row 4", "row 0", "row 3", "row 0"]
    found = read_rows([index[name] for name in wanted])
    assert opened == [two, one]
    for name, row in zip(wanted, found, strict=True):
        assert torch.equal(row["a"], rows[name]["a"]) and int(row["b"]) == int(rows[name]["b"])
        assert row["a"].untyped_storage().nbytes() == 12  # a copy, not the mapped file
    assert list(read_rows([index["row 1"]], ["b"])[0]) == ["b"] and read_rows([]) == []


CUTS = {"cut": lambda data: data[:200], "without its end": lambda data: data[:-1], "empty": lambda data: b""}


@pytest.mark.parametrize("cut", CUTS)
def test_a_broken_file_is_left_out_named_and_written_again(cut, tmp_path):
    lm = tiny("llama")
    arguments = dict(contexts=CONTEXTS, hparams=HPARAMS, folder=tmp_path)
    (first,) = stored_mkvs(lm, FACTS[:1], **arguments)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(CUTS[cut](whole))
    with pytest.warns(UserWarning, match=rf"{file.name} is left out, it is not a whole file .*: delete it\.$"):
        stored_mkvs(lm, FACTS[1:2], **arguments)
    with pytest.warns(UserWarning, match=file.name):
        (again,) = stored_mkvs(lm, FACTS[:1], **arguments)
    assert torch.equal(first.z, again.z) and load_file(file).keys() == load(whole).keys()
    stored_mkvs(lm, FACTS[:2], **arguments)


def test_files_that_hold_no_rows_are_left_out(tmp_path):
    row = {"row": {"a": torch.ones(2)}}
    good = write_rows(tmp_path / "good.safetensors", row)
    save_file({"a": torch.ones(2)}, tmp_path / "of another kind.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "without a list.safetensors", metadata={"names": "{"})
    (tmp_path / "a folder.safetensors").mkdir()
    with pytest.warns(UserWarning, match="is left out") as told:
        assert places(files_in(tmp_path)) == {"row": (good, 0)}
    assert len(told) == 3


def test_of_two_rows_of_one_name_the_later_files_counts_and_a_file_written_anew_is_read_anew(tmp_path):
    def write(name, *values):
        return write_rows(tmp_path / name, {f"row {v}": {"a": torch.tensor(float(v))} for v in values})

    one, two = write("1.safetensors", 1, 2), write("2.safetensors", 2, 3, 4)
    assert places([one, two])["row 2"] == (two, 0) and places([two, one])["row 2"] == (one, 1)
    write("1.safetensors", 7)
    assert list(places([one])) == ["row 7"]


def test_a_row_depends_on_its_group_alone_and_rows_of_batches_are_kept_apart(tmp_path):
    lm = tiny("llama")
    arguments = dict(contexts=CONTEXTS, hparams=HPARAMS)
    one_by_one = [stored_mkvs(lm, [fact], folder=tmp_path / "1", **arguments)[0] for fact in FACTS]
    together = stored_mkvs(lm, FACTS[::-1], folder=tmp_path / "2", **arguments)[::-1]
    assert all(torch.equal(one.z, other.z) for one, other in zip(one_by_one, together, strict=True))
    batched = stored_mkvs(lm, FACTS, batch=8, folder=tmp_path / "3", **arguments)
    files = list((tmp_path / "3").iterdir())
    again = stored_mkvs(lm, FACTS, batch=8, folder=tmp_path / "3", **arguments)
    assert files == list((tmp_path / "3").iterdir())
    assert all(torch.equal(one.z, other.z) for one, other in zip(batched, again, strict=True))
    alone = stored_mkvs(lm, FACTS, folder=tmp_path / "3", **arguments)  # those of the batch are not taken for these
    assert all(torch.equal(one.z, other.z) for one, other in zip(one_by_one, alone, strict=True))
    later = stored_mkvs(lm, FACTS, batch=8, folder=tmp_path / "3", **arguments)  # but these serve all who ask
    assert all(torch.equal(one.z, other.z) for one, other in zip(one_by_one, later, strict=True))
