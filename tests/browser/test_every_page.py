"""Every page, on a phone and on a desk, in light and in dark: it opens clean, fits, links, and can be read by all."""

from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.opening import VIEWS, opened, pages_of

pytestmark = pytest.mark.slow
views = pytest.mark.parametrize(("width", "scheme"), VIEWS)

# in a drawing, a link's address is an object
LINKS = "[...document.querySelectorAll('a[href]')].map(a => new URL(a.href.baseVal ?? a.href, location).href)"
PICTURES = "[...document.images].map(i => ({source: i.src.slice(0, 60), width: i.naturalWidth, alt: i.alt}))"
OVERHANG = "document.documentElement.scrollWidth - innerWidth"


@views
def test_a_page_opens_without_an_error_or_a_foreign_request_and_does_not_scroll_sideways(chromium, site, width, scheme):
    faults = []
    for path in pages_of(site):
        with opened(chromium, path, width, scheme) as here:
            if (overhang := here.page.evaluate(OVERHANG)) > 0:
                faults.append(f"{path.name} is {overhang} pixels too wide")
            faults += here.faults
    assert not faults


def test_every_picture_is_there_and_described(chromium, site):
    faults, seen = [], 0
    for path in pages_of(site):
        with opened(chromium, path) as here:
            pictures = here.page.evaluate(PICTURES)
        seen += len(pictures)
        faults += [f"{path.name}: {picture}" for picture in pictures if not picture["width"] or not picture["alt"]]
    assert not faults
    if not seen and "not run yet" in (site / "index.html").read_text(encoding="utf-8"):
        pytest.skip("no chapter of this site has run: make quick writes it so, and make run with pictures")
    assert seen, "the site has no picture at all"


def test_every_link_leads_to_a_file_and_to_a_place_in_it(chromium, site):
    links, places = {}, {}
    for path in pages_of(site):
        with opened(chromium, path) as here:
            links[path] = here.page.evaluate(LINKS)
            places[path] = set(here.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
    faults = []
    for path, addresses in links.items():
        for parts in map(urlsplit, addresses):
            target = site / unquote(parts.path).rpartition("/")[2]
            lost = target not in places or (parts.fragment and unquote(parts.fragment) not in places[target])
            if parts.scheme == "file" and lost:
                faults.append(f"{path.name} links to {parts.path}#{parts.fragment}")
    assert not faults
    assert any(addresses for addresses in links.values())


@views
def test_axe_finds_nothing_serious(chromium, site, width, scheme):
    faults = []
    for path in pages_of(site):
        with opened(chromium, path, width, scheme) as here:
            found = Axe().run(here.page).response["violations"]
        for violation in found:
            if violation["impact"] in ("serious", "critical"):
                places = [node["target"] for node in violation["nodes"][:3]]
                faults.append(f"{path.name}: {violation['id']}, {violation['help']}: {places}")
    assert not faults
