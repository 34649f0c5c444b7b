"""A wheel, installed without a checkout, has the data that the library reads."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fleke_lib

ROOT = Path(fleke_lib.__file__).parents[1]
PROGRAM = """
from pathlib import Path
import fleke_lib as fleke
from fleke_lib.edit.moments import sample_text
from fleke_lib.mkv.store import SHIPPED
from fleke_lib.reproduce.record import FOLDER, Record
from fleke_lib.storage.files import DATA

print(Path(fleke.__file__).parents[1])
print(DATA)
print(len(fleke.load_facts("atlas")), len(sample_text()), len(Record.load(FOLDER / "claims.json").findings) > 0)
print(sorted(path.name for path in SHIPPED.iterdir()))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since a build leaves its own folders behind."""
    pytest.importorskip("setuptools", minversion="77", reason="builds a wheel without fetching setuptools")
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("fleke_lib", "data"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, copy)
    (built,) = out.glob("*.whl")
    return built


def pip(*arguments) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_a_wheel_holds_the_data_and_not_the_scripts(wheel):
    inside = {name.removeprefix("fleke_lib/data/") for name in zipfile.ZipFile(wheel).namelist() if "/data/" in name}
    assert {"atlas.json", "harm.json", "sample_text.jsonl", "atlas.md", "reproduction/claims.json"} <= inside
    assert {f"mkvs/{path.name}" for path in (ROOT / "data" / "mkvs").iterdir()} <= inside
    assert not any(name.endswith((".py", ".toml")) for name in inside)


@pytest.mark.slow
def test_an_installed_package_reads_its_own_data(wheel, tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    pip("install", "--no-deps", "--no-index", "--target", site, wheel)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    place, data, counts, mkvs = run.stdout.splitlines()
    assert (Path(place), Path(data)) == (site.resolve(), site.resolve() / "fleke_lib" / "data")
    texts = len((ROOT / "data" / "sample_text.jsonl").read_text(encoding="utf-8").splitlines())
    assert counts == f"{len(fleke_lib.load_facts('atlas'))} {texts} True"
    assert mkvs == str(sorted(path.name for path in (ROOT / "data" / "mkvs").iterdir()))
