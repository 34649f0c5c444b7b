"""Open a page of a site and note all that goes wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page

VIEWS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]
PATIENCE = 120_000  # milliseconds: far more than is needed, for a machine that does other things as well
LOCAL = ("file:", "data:", "blob:", "about:")


@dataclass(frozen=True)
class Opened:
    """A page in the browser. ``faults`` grows while it is open: errors in the console, requests that fail or leave."""

    page: Page
    faults: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, path: Path, width: int = 1280, scheme: str = "light") -> Iterator[Opened]:
    """The page of a file, in a window of its own."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    here = Opened(context.new_page())
    note = here.faults.append
    here.page.on("console", lambda message: message.type == "error" and note(f"{path.name}: {message.text}"))
    here.page.on("pageerror", lambda error: note(f"{path.name}: {error}"))
    here.page.on("requestfailed", lambda request: note(f"{path.name} did not get {request.url}"))
    here.page.on("request", lambda request: request.url.startswith(LOCAL) or note(f"{path.name}: {request.url}"))
    try:
        here.page.goto(path.as_uri(), wait_until="load")
        yield here
    finally:
        context.close()


def pages_of(site: Path) -> list[Path]:
    """The pages of a site; at least one."""
    found = sorted(site.glob("*.html"))
    assert found, f"{site} holds no page"
    return found
