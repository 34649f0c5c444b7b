"""Hospitals as real processes on loopback, under TLS and with keys; needs Flower, and is skipped without it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[3]
BESIDE = ROOT / ".venv-flower" / "bin" / "python"  # where `make federation` puts Flower
PYTHON = sys.executable if importlib.util.find_spec("flwr") else str(BESIDE)
NEEDS_FLOWER = pytest.mark.skipif(
    not (importlib.util.find_spec("flwr") or BESIDE.exists()),
    reason="Flower is not installed: `make federation` installs it in .venv-flower.",
)


@NEEDS_FLOWER
@pytest.mark.model
@pytest.mark.slow
def test_hospitals_over_processes_have_the_weights_of_one_process(tmp_path):
    call = [PYTHON, "-m", "tools.federation", "--hospitals", "2", "--slots", "1", "--facts", "1"]
    done = subprocess.run(
        [*call, "--keep", str(tmp_path / "run")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 hospitals have the weights of the run in one process" in done.stdout
    assert re.search(r"slot 0, edit: 2 of 2 nodes, 2 packets, \d+ bytes", done.stdout)
    left = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    assert not [line for line in left if str(tmp_path) in line], "everything that was started is stopped"


def test_the_library_works_without_flower():
    """Only the apps import it, and nothing imports the apps."""
    for path in (ROOT / "fleke_lib").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "apps.py":
            assert not re.search(
                r"^\s*(from|import) flwr\b|flower(\.| import )apps", text.replace("`flower.apps`", ""), re.M
            )
