"""Claims, their verdicts and their table: intervals compared with scipy, and failed claims stay in the table."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from fleke_lib.course.scale import Scale
from fleke_lib.reproduce.claims import Bound, Claim, Finding, plain, reproduce
from fleke_lib.reproduce.measure import CLAIMS, at, named
from fleke_lib.reproduce.record import BEGIN, END, FOLDER, Conditions, Record, spliced, table

ROOT = Path(__file__).parents[2]
SETTING = Conditions("m", "f" * 64, "lesson", 24, 4, 3, 3, 2, "3.11", "2", "4")


def finding(*values: float, verdict="held") -> Finding:
    return Finding("a-claim", "it holds", "somebody", "by looking", "at least 0.5", values, 1.0, verdict)


def test_a_claim_is_measured_on_as_many_worlds_as_it_wants_and_judged_by_the_mean():
    asked = []

    def measure(scenario):
        asked.append(scenario)
        return scenario / 10

    claims = [
        Claim("all", "s", "o", "h", Bound(0.5), measure),
        Claim("two", "s", "o", "h", Bound(0.5), measure, seeds=2),
        Claim("under", "s", "o", "h", Bound(0.6, "at most"), measure),
        Claim("none", "s", "o", "it cannot be done"),
    ]
    found = reproduce(claims, [3, 6, 9])
    assert asked == [3, 6, 9, 3, 6, 3, 6, 9]
    assert [f.values for f in found] == [(0.3, 0.6, 0.9), (0.3, 0.6), (0.3, 0.6, 0.9), ()]
    assert [f.verdict for f in found] == ["held", "not held", "held", "not testable here"]
    assert [f.bound for f in found] == ["at least 0.5", "at least 0.5", "at most 0.6", ""]
    assert math.isnan(found[-1].mean)


def test_where_time_is_short_identities_are_asked_of_one_seed_and_nothing_else_changes():
    assert at(Scale("full")) == CLAIMS
    for size in (Scale("smoke"), Scale("lesson")):
        for claim, asked in zip(CLAIMS, at(size), strict=True):
            assert asked == (replace(claim, seeds=1) if claim.identity else claim)
    exact = {claim.name for claim in CLAIMS if claim.identity}
    assert {"withdrawal", "any-order", "sums-add", "no-text"} <= exact and "fedit-retains" not in exact
    assert all(claim.bound.side == "at most" for claim in CLAIMS if claim.identity)


def test_a_number_that_is_none_holds_nothing():
    (found,) = reproduce([Claim("a", "s", "o", "h", Bound(0.0), lambda scenario: math.nan)], [0])
    assert found.verdict == "not held"


def test_intervals_are_students():
    values = (0.91, 0.95, 0.99, 0.90)
    expected = stats.t.interval(0.95, 3, loc=stats.tmean(values), scale=stats.sem(values))
    assert finding(*values).interval == pytest.approx(expected)
    assert finding(0.7).interval == (0.7, 0.7) and finding(1.0, 1.0).interval == (1.0, 1.0)


def test_the_table_keeps_every_claim():
    missed = replace(finding(0.1, 0.3), sentence="it fails", verdict="not held")
    never = replace(finding(verdict="not testable here"), sentence="it is far", how="needs a GPU", bound="")
    lines = table([finding(0.5, 0.7), missed, never]).splitlines()
    assert len(lines) == 5 and all(line.count("|") == 6 for line in lines)
    assert "it holds" in lines[2] and "0.6 [-0.671, 1.87]" in lines[2] and lines[2].endswith("| held |")
    assert (
        lines[3].endswith("| not held |") and "needs a GPU" in lines[4] and lines[4].endswith("| not testable here |")
    )


def test_numbers_are_short():
    assert [plain(x) for x in (0, 1, 0.98765, 2.8395e-13, 158.2)] == ["0", "1", "0.988", "3e-13", "158"]


def test_a_record_comes_back_as_it_was(tmp_path):
    record = Record(SETTING, (finding(0.123456789012345, 1e-13), finding(verdict="not testable here")))
    path = record.save(tmp_path / "claims.json")
    assert Record.load(path) == record
    path.write_text(json.dumps({"conditions": {"model": "m"}, "findings": []}))
    with pytest.raises(ValueError, match="not a record"):
        Record.load(path)


def test_the_table_goes_between_its_marks_and_nowhere_else():
    record = Record(SETTING, (finding(0.5),))
    text = f"before\n\n{BEGIN}\nstale\n{END}\n\nafter\n"
    new = spliced(text, record)
    assert (
        new.startswith(f"before\n\n{BEGIN}\n| claim |") and new.endswith(f"\n{END}\n\nafter\n") and "stale" not in new
    )
    assert spliced(new, record) == new
    for bad in ("no marks", BEGIN, f"{END} {BEGIN}", text + text):
        with pytest.raises(ValueError, match="needs one line"):
            spliced(bad, record)


def test_the_readme_has_the_last_reproduction():
    readme, record = (ROOT / "README.md").read_text(encoding="utf-8"), Record.load(FOLDER / "claims.json")
    assert spliced(readme, record) == readme


def test_the_last_reproduction_is_of_all_claims_on_three_seeds_or_more():
    record, known = Record.load(FOLDER / "claims.json"), {claim.name: claim for claim in CLAIMS}
    assert record.conditions.scale == "full" and record.conditions.seeds >= 3
    assert [found.name for found in record.findings] == [claim.name for claim in CLAIMS]
    for found in record.findings:
        claim = known[found.name]
        assert (found.sentence, found.source, found.how) == (claim.sentence, claim.source, claim.how)
        assert found.bound == (str(claim.bound) if claim.bound else "")
        assert len(found.values) == (0 if claim.measure is None else min(claim.seeds or 99, record.conditions.seeds))


def test_claims_have_names_of_their_own_and_say_how():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS) > 30
    assert all((claim.measure is None) == (claim.bound is None) and claim.how for claim in CLAIMS)
    assert [claim.name for claim in named(["reuse", "erased"])] == ["reuse", "erased"]
    with pytest.raises(ValueError, match="no claim 'reused'"):
        named(["reused"])
