"""Files and folders that are written whole or not at all, and never at the cost of what was there."""

import subprocess
import sys
from pathlib import Path

import pytest

from fleke_lib.storage import files
from fleke_lib.storage.files import half_made, write_text


def left_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "file.json"
    with half_made(target) as half:
        half.write_text("whole")
        assert half.name == "file.json"
        assert not target.exists()
    assert target.read_text() == "whole"
    with half_made(target) as half:
        half.write_text("newer")
        assert target.read_text() == "whole"
    assert target.read_text() == "newer"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_what_was_there(tmp_path):
    target = tmp_path / "file.json"
    target.write_text("whole")
    with pytest.raises(KeyboardInterrupt), half_made(target) as half:
        half.write_text("ha")
        raise KeyboardInterrupt
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_keeps_its_other_files(tmp_path):
    target = tmp_path / "folder"
    (target / "inner").mkdir(parents=True)
    for name in ("thesis.txt", "same", "inner/mine"):
        (target / name).write_text("mine")
    with half_made(target) as half:
        (half / "inner").mkdir(parents=True)
        (half / "new").mkdir()
        for name in ("same", "inner/made", "new/made"):
            (half / name).write_text("made")
    mine, made = ["folder/inner/mine", "folder/thesis.txt"], ["folder/inner/made", "folder/new/made", "folder/same"]
    assert left_in(tmp_path) == sorted([*mine, *made])
    assert {(tmp_path / name).read_text() for name in mine} == {"mine"}
    assert {(tmp_path / name).read_text() for name in made} == {"made"}


def test_an_error_in_a_folder_that_was_there_changes_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "same").write_text("mine")
    with pytest.raises(KeyboardInterrupt), half_made(tmp_path / "folder") as half:
        half.mkdir()
        (half / "same").write_text("made")
        raise KeyboardInterrupt
    assert left_in(tmp_path) == ["folder/same"] and (tmp_path / "folder" / "same").read_text() == "mine"


def test_a_file_does_not_replace_a_folder_nor_a_folder_a_file(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    file.write_text("mine")
    (folder / "deep").mkdir()
    with pytest.raises(ValueError, match="folder is a folder, but a file is to be written there: give"):
        write_text(folder, "made")
    with (
        pytest.raises(ValueError, match="file is a file, but a folder is to be written there: give"),
        half_made(file) as half,
    ):
        half.mkdir()
    with pytest.raises(ValueError, match="deep is a folder, but a file"), half_made(folder) as half:
        half.mkdir()
        for name in ("deep", "thesis.txt"):
            (half / name).write_text("made")
    assert left_in(tmp_path) == ["file", "folder/thesis.txt"]
    assert file.read_text() == (folder / "thesis.txt").read_text() == "mine"


def test_a_folder_may_be_the_current_one(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with half_made(Path()) as half:
        half.mkdir()
        (half / "made").touch()
    assert left_in(tmp_path) == ["here/made"]


def test_a_folder_that_another_process_finished_first_is_kept(tmp_path):
    target = tmp_path / "folder"
    with half_made(target) as half:
        half.mkdir()
        (half / "mine").touch()
        target.mkdir()
        (target / "theirs").touch()
    assert left_in(tmp_path) == ["folder/theirs"]


def test_a_killed_process_leaves_nothing_that_counts(tmp_path, monkeypatch):
    """Killed in the middle: no target, and what is left beside it goes with the next one that is made there."""
    target = tmp_path / "folder"
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    monkeypatch.setattr(files.os, "getpid", lambda: gone.pid)
    killed = half_made(target)  # kept from its end, as the process was
    half = killed.__enter__()
    half.mkdir()
    (half / "part").touch()
    monkeypatch.undo()

    assert not target.exists()
    assert len(left_in(tmp_path)) == 1
    with half_made(tmp_path / "other") as half:
        half.touch()
        with half_made(target) as whole:  # a living process keeps its own
            whole.mkdir()
            (whole / "whole").touch()
    assert left_in(tmp_path) == ["folder/whole", "other"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "other"]
