"""FLEKE_MODEL is read in one place only; `fleke.load_model` follows it, and the model's own loader does not."""

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import fleke_lib as fleke
from fleke_lib.course import another, chosen, held
from fleke_lib.model import language_model, shipped
from tests.tiny import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A saved tiny model."""
    lm = tiny("gpt2")
    lm.model.save_pretrained(tmp_path / "tiny model")
    lm.tokenizer.save_pretrained(tmp_path / "tiny model")
    return tmp_path / "tiny model"


@pytest.mark.parametrize("value", [None, "", shipped.NAME])
def test_unset_empty_or_the_default_models_name_means_the_default_model(value, monkeypatch):
    monkeypatch.delenv("FLEKE_MODEL", raising=False)
    if value is not None:
        monkeypatch.setenv("FLEKE_MODEL", value)
    asked = []
    monkeypatch.setattr(language_model, "load_model", lambda source, **options: asked.append(source))
    fleke.load_model()
    assert asked == [shipped.NAME] and another() is None


def test_a_name_keeps_its_last_part():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEKE_MODEL", "EleutherAI/gpt-j-6b")
        assert another() == "gpt-j-6b"


def test_the_variable_chooses_the_model_and_an_argument_overrides_it(folder, monkeypatch):
    monkeypatch.setenv("FLEKE_MODEL", str(folder))
    assert fleke.load_model().arch is language_model.ARCHITECTURES["gpt2"] and another() == "tiny model"
    with pytest.raises(ValueError, match="no-such-model"):
        fleke.load_model("./no-such-model")


def test_no_other_file_of_the_library_reads_the_variable():
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "fleke_lib").rglob("*.py")}
    readers = [name for name, text in texts.items() if "FLEKE_MODEL" in text and "environ" in text]
    assert readers == ["chosen.py"]
    assert chosen.VARIABLE == "FLEKE_MODEL"


@pytest.fixture
def shell(monkeypatch) -> InteractiveShell:
    """An IPython shell, as a notebook has one."""
    made = InteractiveShell(config=Config(HistoryManager={"enabled": False}, InteractiveShell={"colors": "nocolor"}))
    monkeypatch.setattr("IPython.get_ipython", lambda: made)
    return made


CELL = "x = 1\nfor y in (1, 2, 3):\n    assert y < x + 1\nz = 5\nassert z == 5\nassert z > 5, 'too small'\nw = 6"


def test_on_the_default_model_a_failed_assertion_stops_a_cell(shell, capsys):
    shell.run_cell(CELL)
    assert "z" not in shell.user_ns and "AssertionError" in capsys.readouterr().out


def test_on_another_model_it_is_reported_and_a_precondition_still_stops(shell, folder, monkeypatch, capsys):
    monkeypatch.setenv("FLEKE_MODEL", str(folder))
    fleke.load_model()
    fleke.load_model()  # a second call adds nothing
    shell.run_cell(CELL)
    assert shell.user_ns["z"] == 5 and "w" not in shell.user_ns
    said = capsys.readouterr().out
    assert said.count("Not held on tiny model: y < x + 1") == 2
    assert "AssertionError: too small" in said
    assert len([one for one in shell.ast_transformers if isinstance(one, held._Reporting)]) == 1


def test_on_another_model_a_last_line_that_divides_by_zero_is_reported_and_others_are_shown(shell, folder, monkeypatch):
    monkeypatch.setenv("FLEKE_MODEL", str(folder))
    fleke.load_model()
    assert shell.run_cell("x = 0\n{'ratio': 1 / x}").result is None
    assert shell.run_cell("x + 2").result == 2
    assert not shell.run_cell("y = 1 / x").success
    assert shell.run_cell("assert x == 1").result is None


def test_a_model_that_is_named_in_the_call_changes_nothing(shell, folder, monkeypatch, capsys):
    monkeypatch.delenv("FLEKE_MODEL", raising=False)
    fleke.load_model(folder)
    shell.run_cell(CELL)
    assert "z" not in shell.user_ns and "AssertionError" in capsys.readouterr().out
