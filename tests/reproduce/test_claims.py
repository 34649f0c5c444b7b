"""Claims, their verdicts and their table: intervals compared with scipy, and failed claims stay in the table."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from fleke_lib.course.scale import Scale
from fleke_lib.reproduce.claims import Bound, Claim, Finding, plain, reproduce, verdict
from fleke_lib.reproduce.measure import CLAIMS, at, named, today
from fleke_lib.reproduce.record import BEGIN, END, FOLDER, Conditions, Record, spliced, table

ROOT = Path(__file__).parents[2]
SETTING = Conditions("m", "f" * 64, "lesson", 24, 4, 3, 3, 0, "a" * 64, 2, "3.11", "2", "4")


def finding(*values: float, verdict="held") -> Finding:
    return Finding("a-claim", "it holds", "somebody", "by looking", "at least 0.5", values, 1.0, verdict)


def test_a_claim_is_measured_on_as_many_worlds_as_it_wants_and_judged_by_the_interval():
    asked = []

    def measure(scenario):
        asked.append(scenario)
        return scenario / 10

    claims = [
        Claim("all", "s", "o", "h", Bound(-1.0), measure),
        Claim("two", "s", "o", "h", Bound(0.5), measure, seeds=2),
        Claim("under", "s", "o", "h", Bound(-1.0, "at most"), measure),
        Claim("none", "s", "o", "it cannot be done"),
    ]
    found = reproduce(claims, [3, 6, 9])
    assert asked == [3, 6, 9, 3, 6, 3, 6, 9]
    assert [f.values for f in found] == [(0.3, 0.6, 0.9), (0.3, 0.6), (0.3, 0.6, 0.9), ()]
    assert [f.verdict for f in found] == ["held", "undecided", "not held", "not testable here"]
    assert [f.bound for f in found] == ["at least -1", "at least 0.5", "at most -1", ""]
    assert math.isnan(found[-1].mean)


def test_where_time_is_short_identities_are_asked_of_one_seed_and_nothing_else_changes():
    assert at(Scale("full")) == CLAIMS
    for size in (Scale("smoke"), Scale("lesson")):
        for claim, asked in zip(CLAIMS, at(size), strict=True):
            assert asked == (replace(claim, seeds=1) if claim.identity else claim)
    exact = {claim.name for claim in CLAIMS if claim.identity}
    assert {"withdrawal", "any-order", "sums-add", "no-text"} <= exact and "fedit-retains" not in exact
    assert all(claim.bound.side == "at most" for claim in CLAIMS if claim.identity)


@pytest.mark.parametrize(
    ("values", "bound", "identity", "expected"),
    [
        ((1.0, 1.1, 1.2), Bound(0.8), False, "held"),  # the interval is 1.1 +- 0.248
        ((1.0, 1.1, 1.2), Bound(0.9), False, "undecided"),  # every value reaches the bound, but the interval spans it
        ((1.0, 1.1, 1.2), Bound(1.3), False, "undecided"),
        ((1.0, 1.1, 1.2), Bound(1.4), False, "not held"),
        ((1.0, 1.1, 1.2), Bound(1.4, "at most"), False, "held"),
        ((1.0, 1.1, 1.2), Bound(1.1, "at most"), False, "undecided"),
        ((1.0, 1.1, 1.2), Bound(0.8, "at most"), False, "not held"),
        ((1.1,), Bound(1.0), False, "held"),  # one value has no interval, so it decides by itself
        ((0.9,), Bound(1.0), False, "not held"),
        ((1.0, 1.0), Bound(1.0), False, "held"),  # an interval of no width, at the bound
        ((0.0, 0.0, 0.0), Bound(0, "at most"), True, "held"),
        ((0.0, 0.0, 1e-9), Bound(0, "at most"), True, "not held"),  # one counterexample to an identity
        ((0.0, 0.4, 0.8), Bound(0.9, "at most"), True, "held"),  # whatever the spread
        ((), Bound(0.5), False, "to be measured"),
        ((), None, False, "not testable here"),
    ],
)
def test_the_interval_decides_or_does_not(values, bound, identity, expected):
    claim = Claim("a", "s", "o", "h", bound, None if bound is None else float, identity=identity)
    assert verdict(claim, values) == expected


def test_an_undecided_claim_says_so_in_the_table_the_readme_and_the_record():
    record = Record.load(FOLDER / "claims.json")
    spans = {
        found.name
        for found, claim in zip(record.findings, CLAIMS, strict=True)
        if len(found.values) > 1 and not claim.identity
        for low, high in [stats.t.interval(0.95, len(found.values) - 1, *mean_and_error(found.values))]
        if low < claim.bound.number < high
    }
    assert spans
    assert {found.name for found in record.findings if found.verdict == "undecided"} == spans
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for found in record.findings:
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {found.sentence} ") and "|" in line[2:]]
        assert row.endswith(f"| {found.verdict} |")


def mean_and_error(values) -> tuple[float, float]:
    return stats.tmean(values), max(stats.sem(values), 1e-300)


def test_a_record_is_judged_by_the_claims_of_today():
    record = Record.load(FOLDER / "claims.json")
    assert today(record) == record
    stale = [replace(found, sentence="as it was", verdict="held", bound="at least 0") for found in record.findings]
    assert today(replace(record, findings=tuple(stale))) == record
    name = next(found.name for found in record.findings if found.values)
    other = [replace(found, how="in another way") if found.name == name else found for found in record.findings]
    (changed,) = [found for found in today(replace(record, findings=tuple(other))).findings if found.name == name]
    assert changed.verdict == "to be measured" and not changed.values


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
    assert len(lines) == 5 and all(line.count("|") == 7 for line in lines)
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
        if found.verdict == "to be measured":  # only in a record of other seeds than those of today
            assert record.conditions.shared and not found.values
            continue
        assert (found.sentence, found.source, found.how) == (claim.sentence, claim.source, claim.how)
        assert found.bound == (str(claim.bound) if claim.bound else "")
        assert len(found.values) == (0 if claim.measure is None else min(claim.seeds or 99, record.conditions.seeds))


def test_claims_have_names_of_their_own_and_say_how():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS) > 30
    assert all((claim.measure is None) == (claim.bound is None) and claim.how for claim in CLAIMS)
    assert [claim.name for claim in named(["reuse", "erased"])] == ["reuse", "erased"]
    with pytest.raises(ValueError, match="no claim 'reused'"):
        named(["reused"])
