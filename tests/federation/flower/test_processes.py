"""Hospitals as real processes on loopback, under TLS and with keys, with a tiny model; needs Flower."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import psutil
import pytest

from fleke_lib.federation.flower.processes import HERE, app, connection
from tests.tiny import tiny
from tools.federation.__main__ import main

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a tiny model, and a cache of its own for its second moments."""
    folder = tmp_path_factory.mktemp("tiny")
    lm = tiny("llama")
    lm.model.save_pretrained(folder), lm.tokenizer.save_pretrained(folder)
    return folder


def started(model, folder, *more):
    """`make federation` with this model, in a new folder."""
    call = [sys.executable, "-m", "tools.federation", "--model", str(model), "--keep", str(folder), *more]
    around = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FLEKE_CACHE": str(model / "cache")}
    return subprocess.Popen(call, cwd=ROOT, env=around, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def left_behind(folder):
    """Command lines of processes that still name this folder."""
    found = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    return [line for line in found if str(folder) in line]


@pytest.mark.flower
@pytest.mark.slow
def test_hospitals_over_processes_have_the_weights_of_one_process_before_and_after_a_withdrawal(model, tmp_path):
    folder = tmp_path / "run"
    process = started(model, folder, "--hospitals", "3", "--slots", "2", "--facts", "2")
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert "3 of 3 hospitals have, bit for bit, the weights of the run in one process" in said
    assert "2 of 2 hospitals have, bit for bit, the weights of the run that the one that withdrew never joined" in said
    assert "the registry holds 0 packets of hospital-2; 0 requests are pending" in said
    assert re.search(r"slot 1, retrieve: 3 of 3 nodes, \d+ packets, \d+ bytes from nodes, \d+ to nodes, 3 alive", said)
    assert "hospital-2 withdrawn: all slots again" in said
    assert len(re.findall(r"^hospital-\d +0\.\d{3}", said, re.M)) == 3, "a row for each hospital"
    assert not left_behind(folder), "everything that was started is stopped"
    secret = (folder / "secret.bin").read_bytes()
    there = (folder / "hub").rglob("*")
    assert not [path for path in there if path.is_file() and secret in path.read_bytes()]


@pytest.mark.flower
@pytest.mark.slow
def test_ctrl_c_stops_everything_that_was_started(model, tmp_path):
    folder = tmp_path / "run"
    process = started(model, folder, "--hospitals", "2", "--slots", "1", "--facts", "1")
    end = time.monotonic() + 200
    while not (folder / "hub" / "superlink.pid").exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.2)
    assert left_behind(folder)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped by hand" in said
    assert not [line for line in left_behind(folder) if "tools.federation" not in line]


def test_a_folder_that_exists_is_not_written_over(tmp_path, capsys):
    (tmp_path / "secret.bin").write_bytes(b"of another federation")
    assert main(["--keep", str(tmp_path)]) == 2
    assert "give a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["secret.bin"]


@pytest.mark.parametrize("more", [["--hospitals", "2"], ["--policy", "top:2"]])
def test_sums_have_no_policy_and_need_three_hospitals(tmp_path, capsys, more):
    assert main(["--protection", "summed", "--keep", str(tmp_path / "new"), *more]) == 2
    assert "needs 3 hospitals at least" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_paths_with_quotes_and_spaces_reach_flower_as_they_are(tmp_path):
    path = tmp_path / """o'brien's "hub" """
    folder = app(path / "app", {"registry": str(path), "slots": 2})
    told = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    assert told == {"registry": str(path), "slots": 2}
    connection(path, "127.0.0.1:1", path / "ca.crt")
    found = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))["superlink"][HERE]
    assert found == {"address": "127.0.0.1:1", "root-certificates": str(path / "ca.crt")}


def imported(path):
    """What a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_the_library_works_without_flower():
    """Three files import it, and nothing imports these. What runs in Flower's processes leaves the library alone."""
    flower = ROOT / "fleke_lib" / "federation" / "flower"
    for path in (ROOT / "fleke_lib").rglob("*.py"):
        if path.name not in ("apps.py", "relay.py", "superlink.py") or path.parent != flower:
            forbidden = r"flwr\b|.*\bflower\.(apps|relay|superlink)\b"
            assert not [name for name in imported(path) if re.match(forbidden, name)]
    assert {name.partition(".")[0] for name in imported(flower / "relay.py")} == {"socket", "flwr"}
    assert not [name for name in imported(flower / "superlink.py") if name.startswith("fleke_lib")]
