"""Chapter 09's federation as it was recorded: told step by step, and without anything that is private."""

import json

import pytest

from fleke_lib.facts.loading import load_facts
from tools.federation.story import RECORD, STEPS, Story


def test_a_record_is_told_in_its_order(capsys):
    story = Story((), [["start", {"hospital-0": ["ca.crt"]}], ["run", ["slot 0, join: 1 of 1 nodes"]]])
    with pytest.raises(ValueError, match="goes on with 'start' and not with 'run'"):
        story.run({})
    again = Story((), [["start", {"hospital-0": ["ca.crt"]}], ["run", ["slot 0, join: 1 of 1 nodes"]]])
    assert again.start(None) == {"hospital-0": ["ca.crt"]}
    assert again.run({}) == ["slot 0, join: 1 of 1 nodes"] and "join" in capsys.readouterr().out
    again.end()


@pytest.mark.skipif(not RECORD.exists(), reason="`python -m tools.federation.story` has not written the record.")
def test_the_record_holds_what_the_page_asks_for_and_no_fact():
    text = RECORD.read_text(encoding="utf-8")
    assert [name for name, _ in json.loads(text)] == [*STEPS]
    assert not [fact for fact in load_facts("atlas") if fact.subject in text]
    assert Story.begin(live=False).site is None
