"""JupyterLab as `make lab` starts it, on a folder of its own, and what a reader does in it."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Locator, Page

START, RUN = 300, 900  # seconds, far more than is needed
SETTINGS = "settings/@jupyterlab"
FILES = {
    f"{SETTINGS}/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},  # keeps every cell in view
    f"{SETTINGS}/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
    "JUPYTER_CONFIG_DIR/labconfig/page_config.json": {"buildCheck": False, "buildAvailable": False},
}
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].map(p => p.innerText)"
STARTED = f"{PROMPTS}.some(p => /[*\\d]/.test(p))"
FINISHED = f"!{PROMPTS}.some(p => p.includes('*'))"


@contextmanager
def lab_server(folder: Path, private: Path) -> Iterator[str]:
    """The address of a JupyterLab on the notebooks of a folder; settings and figures go to a private one."""
    for name, values in FILES.items():
        path = private / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    token, port = secrets.token_hex(16), free_port()
    places = {name: str(private / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(private / "settings"), "FLEKE_FIGURES": str(private / "figures")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    environment = {**os.environ, **places, "FLEKE_SCALE": "smoke", "JUPYTER_TOKEN": token}
    with (private / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/api/status?token={token}", server, private / "server.log")
        yield f"{address}/lab/tree/{{}}?reset&token={token}"
    finally:
        server.terminate()  # takes its kernels with it
        server.wait(START)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    """Wait until the server answers."""
    until = time.monotonic() + START
    while time.monotonic() < until and server.poll() is None:
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()}")


def run_all(page: Page, address: str) -> None:
    """Open a notebook, choose Run All Cells from the menu, and wait until the kernel has nothing left to do."""
    page.goto(address)
    page.get_by_text("(ipykernel) | Idle").wait_for()  # cells that are run before stay undone
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(STARTED)
    page.wait_for_function(FINISHED, timeout=RUN * 1000)


def errors(page: Page) -> list[str]:
    """The tracebacks that cells show."""
    return outputs(page).filter(has_text="Traceback (most recent call last)").all_inner_texts()


def outputs(page: Page) -> Locator:
    """What cells have given out."""
    return page.locator(".jp-CodeCell .jp-OutputArea-output")
