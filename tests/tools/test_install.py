"""The installation's order, its stamp, and the state after an interrupted installation."""

from pathlib import Path

import pytest

from tools import install

LOCK = "# a comment with name==1\nnumpy==2.4.6\ntorch==2.13.0\n"


def test_pins_leave_comments_out_and_torch_is_found():
    assert install.pins(LOCK) == ["numpy==2.4.6", "torch==2.13.0"]
    assert install.torch_pin(LOCK) == "torch==2.13.0"
    with pytest.raises(ValueError, match="pins no torch"):
        install.torch_pin("numpy==2.4.6\n")


def test_torch_comes_first_from_its_own_index_when_one_is_named():
    name, arguments = install.stages(LOCK, "somewhere/cpu")[0]
    assert name == "torch"
    assert arguments == ["--no-deps", "--index-url", "somewhere/cpu", "torch==2.13.0"]
    assert len(install.stages(LOCK, "")) == len(install.stages(LOCK, "somewhere/cpu")) - 1


def test_the_model_the_data_and_the_library_come_without_dependencies():
    arguments = {name: arguments for name, arguments in install.stages(LOCK, "")}
    assert "--no-deps" in arguments["the default model"]
    assert "--no-deps" in arguments["the data of chapter 10"]
    assert arguments["fleke_lib, editable"][-2:] == ["--editable", "."]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A checkout in which making an environment and calling pip only write down that they were asked."""
    monkeypatch.chdir(tmp_path)
    install.LOCK.write_text(LOCK, encoding="utf-8")

    def create(folder, clear, with_pip, symlinks):
        Path(install.PYTHON).parent.mkdir(parents=True, exist_ok=True)
        Path(install.PYTHON).touch()
        (tmp_path / "made").write_text(f"clear={clear}", encoding="utf-8")

    monkeypatch.setattr(install.venv, "create", create)
    monkeypatch.setattr(install, "pip_install", lambda name, arguments: None)
    return tmp_path


def test_a_finished_installation_leaves_its_stamp(place):
    stamp = Path(".venv/.ready-1")
    assert install.main(["--stamp", str(stamp)]) == 0
    assert stamp.exists()


def test_a_cut_off_installation_leaves_no_stamp_and_the_next_starts_from_nothing(place, monkeypatch, capsys):
    def broken(name, arguments):
        raise RuntimeError("set-up stopped while installing torch")

    stamp = Path(".venv/.ready-2")
    with monkeypatch.context() as context:
        context.setattr(install, "pip_install", broken)
        assert install.main(["--stamp", str(stamp)]) == 1
    assert "set-up stopped" in capsys.readouterr().err
    assert not install.old_stamps()

    (place / "made").unlink()
    assert install.main(["--stamp", str(stamp)]) == 0
    assert (place / "made").read_text(encoding="utf-8") == "clear=True"


def test_a_finished_environment_with_other_pins_is_kept_and_its_old_stamp_goes(place):
    assert install.main(["--stamp", ".venv/.ready-1"]) == 0
    (place / "made").unlink()
    assert install.main(["--stamp", ".venv/.ready-2"]) == 0
    assert not (place / "made").exists()
    assert install.old_stamps() == [Path(".venv/.ready-2")]


def test_pip_that_fails_is_quoted(tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho Collecting torch\necho no space left\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setattr(install, "PYTHON", str(fake))
    with pytest.raises(RuntimeError, match=r"no space left\nset-up stopped while installing things: mend"):
        install.pip_install("things", [])
