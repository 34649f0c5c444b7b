"""Is this machine ready for the course? ``check_environment()`` answers with a table, shown as a cell's last line.

Version bounds are read from the installed package's metadata, which pyproject.toml defines, so they exist only once.
"""

import os
import platform
import shutil
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, distribution, metadata, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fleke_lib.model import shipped
from fleke_lib.storage.files import cache

PACKAGE = "fleke"
EXTRA = "notebooks"  # the optional dependencies that the notebooks need
HEADINGS = ("result", "what", "found", "needed")


@dataclass(frozen=True)
class EnvironmentCheck:
    """One row of the table: what was checked, what was found, what is needed, and whether this is enough."""

    name: str
    found: str
    needed: str
    ok: bool

    @property
    def row(self) -> tuple[str, str, str, str]:
        """The cells of the row; "OK" or "FAIL" comes first."""
        return ("OK" if self.ok else "FAIL", self.name, self.found, self.needed)


@dataclass(frozen=True)
class Environment:
    """All checks. Displays as its verdict above a folded table in a notebook, and as aligned text elsewhere."""

    checks: tuple[EnvironmentCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    @property
    def verdict(self) -> str:
        """One sentence: all checks passed, or which failed and what to do."""
        failed = [check.name for check in self.checks if not check.ok]
        if not failed:
            return f"All {len(self.checks)} checks passed."
        names = ", ".join(failed)
        return f"{len(failed)} of {len(self.checks)} checks failed ({names}): see what each needs, then run make."

    def __repr__(self) -> str:
        rows = [HEADINGS, *(check.row for check in self.checks)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, self.verdict])

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in check.row) + "</tr>" for check in self.checks
        )
        table = f"<table><caption>All checks</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        unfolded = "" if self.ok else " open"
        return f"<details{unfolded}><summary>{escape(self.verdict)}</summary>{table}</details>"


def python_check() -> EnvironmentCheck:
    """Compare the running Python with the package's bound."""
    found = platform.python_version()
    try:
        needed = metadata(PACKAGE)["Requires-Python"]
    except PackageNotFoundError:
        return EnvironmentCheck("Python", found, f"{PACKAGE} installed: run make", False)
    return EnvironmentCheck("Python", found, needed, SpecifierSet(needed).contains(found, prereleases=True))


def package_check(requirement: Requirement) -> EnvironmentCheck:
    """Compare one installed package with its bound."""
    needed = ", ".join(sorted(map(str, requirement.specifier), reverse=True)) or "any"
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return EnvironmentCheck(requirement.name, "not installed", needed, False)
    return EnvironmentCheck(requirement.name, found, needed, requirement.specifier.contains(found, prereleases=True))


def package_checks() -> list[EnvironmentCheck]:
    """Check every package that the library and the notebooks need; none if the library itself is not installed."""
    try:
        declared = [Requirement(line) for line in requires(PACKAGE) or ()]
    except PackageNotFoundError:
        return []
    needed = (each for each in declared if each.marker is None or each.marker.evaluate({"extra": EXTRA}))
    return [package_check(requirement) for requirement in sorted(needed, key=lambda each: each.name)]


def cores() -> int:
    """The number of CPU cores that this process may use; a container often allows fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def amount_check(name: str, bytes_free: int, needed_gb: float) -> EnvironmentCheck:
    """Compare free memory or disk space with what is needed, in units of 10^9 bytes."""
    return EnvironmentCheck(name, f"{bytes_free / 1e9:.1f} GB", f"{needed_gb:g} GB", bytes_free >= needed_gb * 1e9)


def model_check() -> EnvironmentCheck:
    """Check whether the default model is on this machine, in its wheel or converted in the cache; downloads nothing."""
    wheel, _, wanted = shipped.WHEEL.partition("==")
    try:
        found = f"in the package {wheel} {distribution(wheel).version}"
    except PackageNotFoundError:
        converted = any((cache() / "models").glob(f"{shipped.NAME}*"))
        found = "in the cache" if converted else "absent"
    return EnvironmentCheck(shipped.NAME, found, f"{wheel} {wanted}, or the network once", found != "absent")


def check_environment(memory_gb: float = 4.0, disk_gb: float = 2.0) -> Environment:
    """Check Python, the packages, the machine and the model. Changes nothing and needs no network.

    Args:
        memory_gb: free memory that the course needs, in units of 10^9 bytes.
        disk_gb: free disk space that its caches need, in units of 10^9 bytes, on the disk that holds the cache.
    """
    place = next(path for path in (cache(), *cache().parents, Path.cwd()) if path.exists())
    return Environment(
        (
            python_check(),
            *package_checks(),
            EnvironmentCheck("CPU cores", str(cores()), "1 or more", True),
            amount_check("free memory", psutil.virtual_memory().available, memory_gb),
            amount_check("free disk space", shutil.disk_usage(place).free, disk_gb),
            model_check(),
        )
    )
