"""FLEKE_SCALE is read in one place only, defaults to "lesson", and unknown values raise an error."""

from pathlib import Path

import pytest

from fleke_lib.course.scale import NAMES, Scale, scale

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", NAMES)
def test_each_scale_picks_its_own_value(name, monkeypatch):
    monkeypatch.setenv("FLEKE_SCALE", name)
    assert scale() == Scale(name)
    assert scale().pick(smoke="smoke", lesson="lesson", full="full") == name


@pytest.mark.parametrize("value", [None, ""])
def test_unset_or_empty_means_lesson(value, monkeypatch):
    monkeypatch.delenv("FLEKE_SCALE", raising=False)
    if value is not None:
        monkeypatch.setenv("FLEKE_SCALE", value)
    assert scale().name == "lesson"


def test_an_unknown_scale_is_one_sentence_that_names_it_and_the_remedy(monkeypatch):
    monkeypatch.setenv("FLEKE_SCALE", "tiny")
    with pytest.raises(
        ValueError, match=r"^FLEKE_SCALE is 'tiny', but it must be one of smoke, lesson, full: set it .*\.$"
    ):
        scale()


def test_no_other_file_of_the_library_reads_the_variable():
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "fleke_lib").rglob("*.py")}
    readers = [name for name, text in texts.items() if "FLEKE_SCALE" in text and "environ" in text]
    assert readers == ["scale.py"]
