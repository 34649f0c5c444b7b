"""Chapter 09's federation as it was recorded: told step by step, and without anything that is private."""

import json
import re
import sys
from pathlib import Path

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


def test_a_page_that_stops_in_the_middle_leaves_no_process_behind(tmp_path, monkeypatch):
    at_exit = []
    monkeypatch.setattr("tools.federation.story.PYTHON", Path(sys.executable))
    monkeypatch.setattr("tools.federation.story.atexit.register", at_exit.append)
    story = Story.begin(live=True)
    story.site.processes.start("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"])
    process, folder = story.site.processes.running["sleeper"], story.site.folder
    at_exit[0]()
    assert process.poll() is not None and not folder.exists()


@pytest.mark.skipif(not RECORD.exists(), reason="`python -m tools.federation.story` has not written the record.")
def test_the_record_holds_what_the_page_asks_for_and_no_fact():
    text = RECORD.read_text(encoding="utf-8")
    assert [name for name, _ in json.loads(text)] == [*STEPS]
    assert not [fact for fact in load_facts("atlas") if re.search(rf"\b{re.escape(fact.subject)}\b", text)]
    assert Story.begin(live=False).site is None
