"""docs/deploy.md, followed word by word: each host is a folder, and the servers' names are addresses on loopback.

What stands in for the world: `scp` copies between the folders, `fleke` has a tiny model, and the names of the servers
are 127.0.0.2 and 127.0.0.3. Blocks of the language `sh` are not run: they install, or need root or containers.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fleke_lib.edit.edit import Edit
from fleke_lib.federation.flower.processes import free_port
from tests.commands.site import facts_file
from tests.federation.faults.hospitals import tiny_model
from tests.federation.small import facts

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "deploy.md"
BLOCK = re.compile(r"^On `([\w-]+)`[^\n]*:\n\n```bash\n(.*?)^```|^```(bash|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMES = {"new-hub.example.org": "127.0.0.3", "hub.example.org": "127.0.0.2"}
LEFT_OUT = ("git clone", "ufw", "docker compose")  # what blocks that are not run are about


def blocks() -> list[tuple[str, str]]:
    """The host and the commands of each block that is run; a block without a host goes on where the last one was."""
    found, host = [], ""
    for named, commands, language, other in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "sh":
            continue
        host = named or host
        found.append((host, commands or other))
    return found


def test_only_what_cannot_be_run_is_not_run():
    left = [other for _, _, language, other in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if language == "sh"]
    assert len(left) == len(LEFT_OUT)
    assert all(word in one for word, one in zip(LEFT_OUT, left, strict=True))
    hosts = [host for host, _ in blocks()]
    assert set(hosts) == {"hub", "bern", "genf", "new-hub"} and len(hosts) > 20


def programs(folder: Path) -> None:
    """What a user has installed, `fleke`, and `scp` between hosts."""
    folder.joinpath("bin").mkdir()
    python = f"exec {shlex.quote(sys.executable)} -m fleke_lib.federation"
    written = {
        "fleke": f'case "$1" in node|rules) {python} "$@" --model {folder}/tiny ;; esac\n{python} "$@"\n',
        "scp": f'for to; do :; done\nwhile [ $# -gt 1 ]; do cp "$1" "{folder}/${{to%%:*}}/${{to#*:}}"; shift; done\n',
    }
    for name, text in written.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/sh\nset -e\n{text}")
        path.chmod(0o755)


def here(commands: str, port: int) -> str:
    """The commands with the servers' addresses in place of their names, but not in the places that `scp` copies to."""
    for name, address in NAMES.items():
        commands = commands.replace(f"DNS:{name}", f"IP:{address}").replace(f"{name}:8000", f"{address}:{port}")
    return commands.replace("--port 8000", f"--port {port}")


@pytest.mark.flower
def test_the_image_file_passes_its_linter():
    beside = Path(sys.executable).with_name("hadolint")
    linter = str(beside) if beside.exists() else shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed: requirements-flower.lock has it for Linux on x86-64.")
    done = subprocess.run([linter, str(ROOT / "deploy" / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.flower
@pytest.mark.slow
def test_the_page_works_word_by_word(tmp_path):
    port, printed = free_port(), []
    tiny_model(tmp_path / "tiny")
    for host in ("hub.example.org", "new-hub.example.org", "bern.example.org", "genf.example.org"):
        (tmp_path / host).mkdir()
    for i, name in enumerate(("bern", "genf")):
        facts_file(tmp_path / f"{name}.example.org" / f"{name}.json", facts()[3 * i : 3 * i + 3])
    programs(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    try:
        for host, commands in blocks():
            script = "set -euo pipefail\n" + here(commands, port)
            folder = tmp_path / f"{host}.example.org"
            done = subprocess.run(
                ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=400
            )
            printed.append(f"[{host}]\n{commands}{done.stdout}{done.stderr}")
            logs = "".join(path.read_text()[-2000:] for path in tmp_path.glob("*/node.log"))
            assert done.returncode == 0, "\n".join(printed)[-6000:] + logs
        if keep := os.environ.get("FLEKE_TRANSCRIPT"):
            Path(keep).write_text("\n".join(printed).replace(str(tmp_path), "/hosts"))
        check(tmp_path, printed)
    finally:
        stop(tmp_path)


def check(folder: Path, printed: list[str]) -> None:
    """What the page promises to be there at its end."""
    text = "\n".join(printed)
    sums = re.findall(r"^([0-9a-f]{64})  group.json$", text, re.MULTILINE)
    assert len(sums) == 2 and len(set(sums)) == 1
    bern, genf = folder / "bern.example.org", folder / "genf.example.org"
    first, last = (Edit.load(bern / one / "edit.safetensors") for one in ("memory", "memory-1"))
    assert first.fingerprint == last.fingerprint
    on_servers = [path for path in folder.glob("*hub*/**/*") if path.is_file()]
    private = {path.name for path in on_servers if "PRIVATE KEY" in path.read_text(errors="replace")}
    assert private == {"server.key", "new-server.key", "ca.key"}
    secret = (bern / "secret.bin").read_bytes()
    told = [secret, (bern / "secret-1.bin").read_bytes(), *(f'"{fact.subject}"'.encode() for fact in facts()[:6])]
    assert not [path for path in on_servers if any(one in path.read_bytes() for one in told)]
    assert "withdraw" in text and "genf" not in json.loads((bern / "group-1.json").read_text())["members"]
    assert (genf / "memory").is_dir()


def stop(folder: Path) -> None:
    """End everything that the page's commands have started."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        about = " ".join([*(process.info["cmdline"] or ()), process.info["cwd"] or ""])
        if str(folder) in about and process.pid != os.getpid():
            process.send_signal(signal.SIGKILL)
