"""A nightly run fails exactly when a verdict differs from the committed one."""

from dataclasses import replace

import pytest

from fleke_lib.reproduce.record import FOLDER, Record
from tools.verdicts import changes, main

COMMITTED = Record.load(FOLDER / "claims.json")
FIRST = next(finding for finding in COMMITTED.findings if finding.verdict == "held")
REST = [finding for finding in COMMITTED.findings if finding is not FIRST]


def run(tmp_path, findings) -> int:
    measured = replace(COMMITTED, findings=tuple(findings)).save(tmp_path / "claims.json")
    return main([str(FOLDER / "claims.json"), str(measured)])


def test_the_same_verdicts_pass_whatever_the_numbers(tmp_path, capsys):
    other = replace(FIRST, values=tuple(value + 0.001 for value in FIRST.values))
    assert run(tmp_path, [other, *REST]) == 0
    said = capsys.readouterr().out
    assert "No verdict has changed." in said
    assert said.count("\n| ") == 2 + len(COMMITTED.findings)
    assert str(COMMITTED.conditions) in said


def test_a_changed_verdict_fails_and_is_named(tmp_path, capsys):
    assert run(tmp_path, [replace(FIRST, verdict="not held"), *REST]) == 1
    assert f"- {FIRST.name}: committed as 'held', but measured as 'not held'" in capsys.readouterr().out


def test_a_claim_that_one_record_lacks_fails(tmp_path):
    assert run(tmp_path, REST) == 1
    assert run(tmp_path, [*COMMITTED.findings, replace(FIRST, name="new")]) == 1
    assert changes(REST, COMMITTED.findings) == [f"{FIRST.name}: measured, but not in the committed record."]


@pytest.mark.parametrize("arguments", [[], ["one.json"], ["none.json", "none.json"]])
def test_a_wrong_call_is_answered_in_one_sentence(arguments, capsys):
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
