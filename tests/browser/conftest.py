"""A headless Chromium, the one that the machine has, and the sites that it opens."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.little_tour import write_checkout

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("background-networking", "component-update", "sync", "gpu")
FLAGS = ("--no-first-run", *(f"--disable-{what}" for what in QUIET))
MISSING = f"no browser is installed: install Debian's package chromium, or put one of {', '.join(NAMES)} on the PATH"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser, for one module: its driver keeps an event loop in this thread, which other tests must not find."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(MISSING)
    with sync_playwright() as driver:
        # a sandbox cannot be made by root
        yield driver.chromium.launch(executable_path=path, args=FLAGS, chromium_sandbox=os.getuid() != 0)


@pytest.fixture(scope="session")
def little_site(tmp_path_factory) -> Path:
    """The site of a little tour, of which two chapters have run and a third has not."""
    checkout = write_checkout(tmp_path_factory.mktemp("browser") / "a checkout")
    build = checkout / "build"
    named = [str(path) for path in sorted((checkout / "notebooks").glob("*.ipynb"))[:2]]
    command = [sys.executable, "-m", "tools.run_notebooks", *named, "--folder", str(checkout / "notebooks")]
    plain = {**os.environ, "FLEKE_FIGURES": str(build / "figures"), "FLEKE_SCALE": "smoke"}
    done = subprocess.run(
        [*command, "--build", str(build)], cwd=ROOT, env=plain, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return build / "site"


@pytest.fixture(scope="session", params=["little", "real"])
def site(request) -> Path:
    """The little tour's site; then that of the course, where FLEKE_SITE names it or `make run` has left it."""
    if request.param == "little":
        return request.getfixturevalue("little_site")
    folder = Path(os.environ.get("FLEKE_SITE") or ROOT / "build" / "site").resolve()
    if not (folder / "index.html").exists():
        pytest.skip(f"{folder} holds no site: make run writes one, and FLEKE_SITE names another")
    return folder
