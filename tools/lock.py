"""Renew ``requirements.lock`` from the bounds in pyproject.toml, for the oldest Python that the project supports.

The lock must work on every platform and with both builds of torch. Local version tags (``+cpu``) are therefore removed,
and the CUDA libraries are left out; torch's own metadata pins them where they are needed. The lock must also work with
the first release of the oldest Python, which some packages do not support, so pip resolves for that release.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tools.install import LOCK, torch_pin

OLDEST = "3.11.0"
HEADER = """\
# The exact versions that CI uses: `make lock` writes this file from the bounds in pyproject.toml.
# No local version tags and no CUDA libraries, so that it serves the plain and the CPU build of torch alike.
"""
CUDA = re.compile(r"^(nvidia-|triton\b|cuda-)")


def requirements(pyproject: str) -> list[Requirement]:
    """Every requirement that pyproject.toml bounds, extras included."""
    project = tomllib.loads(pyproject)["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [Requirement(text) for group in (project["dependencies"], *extras) for text in group]


def neutral(resolved: dict[str, str]) -> str:
    """The text of a lock file from names and versions: sorted, without local tags and CUDA libraries."""
    kept = {name: version.partition("+")[0] for name, version in resolved.items() if not CUDA.match(name)}
    return HEADER + "".join(f"{name}=={kept[name]}\n" for name in sorted(kept, key=str.lower))


def resolve(wanted: list[str]) -> dict[str, str]:
    """Name and version of every package that pip would install in an empty environment of the oldest Python."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    pretend = ["--dry-run", "--ignore-installed", "--report", "-", "--target", "build/nowhere"]
    oldest = ["--python-version", OLDEST, "--only-binary", ":all:"]
    report = subprocess.run(
        [*command, *pretend, *oldest, *wanted], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    packages = (package["metadata"] for package in json.loads(report)["install"])
    return {package["name"]: package["version"] for package in packages}


def main() -> int:
    """Write the lock; ``python -m tools.lock torch==2.13.0`` also moves torch, which otherwise keeps its version."""
    if sys.version_info[:2] != tuple(map(int, OLDEST.split(".")[:2])):
        # --python-version selects packages only; environment markers are evaluated for the running Python
        found = sys.version.split()[0]
        print(
            f"The lock is made with Python 3.11, but this is {found}: remove .venv, then make lock PYTHON=python3.11."
        )
        return 1
    torch = sys.argv[1] if len(sys.argv) > 1 else torch_pin(LOCK.read_text(encoding="utf-8"))
    wanted = map(str, requirements(Path("pyproject.toml").read_text(encoding="utf-8")))
    LOCK.write_text(neutral(resolve([*wanted, torch])), encoding="utf-8")
    print(f"wrote {LOCK}: run make test before you commit it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
