"""The playground in a browser: it solves what the library solves, by keyboard, on a phone, for everybody."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

import fleke_lib as fleke
from tests.browser.little_tour import write_checkout
from tests.browser.opening import opened
from tools.declared import declaration, numbered_notebooks, read_notebook
from tools.playground import ALONE, CARD
from tools.playground_data import FILE, UNIT, change_hash, identities, packets, read
from tools.site import Site

pytestmark = pytest.mark.slow

VIEWS = [(width, scheme) for width in (360, 1280) for scheme in ("light", "dark")]
STATE = """() => { const s = flekePlayground.state(); return {hash: s.hash, inside: s.inside,
  layers: s.changes.map(c => c.number), dense: s.dense.map(rows => rows.map(row => Array.from(row)))}; }"""
LAMBDAS = {1: 0, 100: 4, 3000: 7}  # the slider's places
CASES = [((0, 1, 2, 3), 100, 6), ((0, 2, 3), 100, 6), ((1,), 1, 1), ((0, 3), 3000, 4)]
OVERHANG = "document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(scope="module", params=["alone", "site"])
def page(request, tmp_path_factory) -> Path:
    """The page alone, far from the repository; then as a page of a site."""
    folder = tmp_path_factory.mktemp("playground")
    if request.param == "alone":
        return Path(shutil.copy(ALONE, folder))
    notebooks = write_checkout(folder / "checkout") / "notebooks"
    (notebooks.parent / "data").mkdir()
    for path in (CARD, FILE):
        shutil.copy(path, notebooks.parent / "data")
    tour = [declaration(path, read_notebook(path)) for path in numbered_notebooks(notebooks)]
    site = Site(folder / "site", notebooks, tour)
    assert site.write_unrun() == []
    site.write_contents({})
    site.write_search()  # the little tour lacks the chapters that the card links to
    assert 'class="try"' in (site.folder / "index.html").read_text(encoding="utf-8")
    return site.folder / "playground.html"


def choose(here, clients, lam, layers):
    """Set the controls."""
    for i, box in enumerate(here.page.get_by_role("checkbox").all()):
        box.set_checked(i in clients)
    here.page.locator("#play-lambda").fill(str(LAMBDAS[lam]))
    here.page.locator("#play-layers").fill(str(layers))


@pytest.mark.parametrize(("clients", "lam", "layers"), CASES)
def test_the_change_and_its_hash_are_the_librarys(chromium, clients, lam, layers, capsys):
    data = read()
    with opened(chromium, ALONE) as here:
        choose(here, clients, lam, layers)
        found = here.page.evaluate(STATE)
        shown = here.page.locator("#play-hash").inner_text()
        assert not here.faults
    inside = [i for i, fact in enumerate(data["facts"]) if fact["client"] in clients]
    small = packets(data, layers)
    edit = fleke.edit.trajectory([small[i] for i in inside], identities(small[0]), lam)
    assert found["inside"] == inside and tuple(found["layers"]) == edit.layers
    dense = dict(zip(edit.layers, map(np.array, found["dense"]), strict=True))
    apart = max(np.linalg.norm(dense[i] - edit.delta(i).numpy()) / float(edit.delta(i).norm()) for i in edit.layers)
    with capsys.disabled():
        print(f"\nthe page's dW against the library's: relative difference {apart:.1e}")
    assert apart < 1e-6
    whole = [f"{i}:".encode() + np.floor(dense[i] / UNIT + 0.5).astype("<i4").tobytes() for i in edit.layers]
    assert shown == found["hash"] == hashlib.sha256(b"".join(whole)).hexdigest() == change_hash(edit)


def test_sha256_is_that_of_the_standard_at_every_length(chromium):
    with opened(chromium, ALONE) as here:
        for length in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000):
            data = bytes(7 * i % 256 for i in range(length))
            assert here.page.evaluate("b => flekePlayground.sha256(Uint8Array.from(b))", list(data)) == (
                hashlib.sha256(data).hexdigest()
            )


def test_by_keyboard_a_client_leaves_and_returns_and_so_does_the_hash(chromium, page):
    with opened(chromium, page) as here:
        digest, status = here.page.locator("#play-hash"), here.page.locator("#play-summary")
        first, said = digest.inner_text(), status.inner_text()
        for _ in range(40):
            here.page.keyboard.press("Tab")
            if here.page.evaluate("document.activeElement.type") == "checkbox":
                break
        here.page.keyboard.press("Tab")  # the second client
        here.page.keyboard.press("Space")
        left = digest.inner_text()
        assert left != first and "South Hospital has withdrawn" in status.inner_text() != said
        assert "of its effect" in status.inner_text()
        assert here.page.locator("#play-verdict").inner_text() == "No step before had this hash."
        assert here.page.locator(".play-group.client-1").get_by_text("not in the edit").count() >= 6
        here.page.keyboard.press("Space")
        assert digest.inner_text() == first and status.inner_text() == said
        assert here.page.locator("#play-verdict").inner_text() == "This is the hash of step 1."
        here.page.keyboard.press("Space")
        assert digest.inner_text() == left
        assert here.page.locator("#play-steps .same").count() == 2
        assert not here.faults


def test_by_keyboard_the_sliders_say_what_they_are_at(chromium, page):
    with opened(chromium, page) as here:
        lam, layers = here.page.get_by_label("λ, weight"), here.page.get_by_label("Edited layers")
        assert (lam.get_attribute("aria-valuetext"), layers.get_attribute("aria-valuetext")) == (
            "100", "6 layers: 4, 6, 8, 10, 12, 14",
        )  # fmt: skip
        before = here.page.locator("#play-hash").inner_text()
        lam.focus()
        here.page.keyboard.press("ArrowRight")
        layers.focus()
        here.page.keyboard.press("ArrowLeft")
        assert lam.get_attribute("aria-valuetext") == here.page.locator("#play-lambda-now").inner_text() == "300"
        assert layers.get_attribute("aria-valuetext") == "5 layers: 6, 8, 10, 12, 14"
        assert here.page.locator("#play-hash").inner_text() != before
        here.page.get_by_role("button", name="Start again").click()
        here.page.wait_for_function("h => document.getElementById('play-hash').textContent === h", arg=before)
        assert here.page.locator("#play-steps li").count() == 1


def test_facts_are_answered_and_disputes_are_seen(chromium):
    with opened(chromium, ALONE) as here:
        assert here.page.locator(".play-fact").count() == 24
        assert "2 questions disputed" in here.page.locator("#play-summary").inner_text()
        right = here.page.locator(".play-fact.right").count()
        choose(here, (0, 2), 100, 6)  # those with whom nobody disagrees now
        assert here.page.locator(".play-fact.right").count() == 12
        assert "disputed" not in here.page.locator("#play-summary").inner_text()
        choose(here, (), 100, 6)
        assert here.page.locator(".play-fact.out").count() == 24
        assert "0 of 0 facts" in here.page.locator("#play-summary").inner_text()
        choose(here, (0, 1, 2, 3), 100, 6)
        assert here.page.locator(".play-fact.right").count() == right >= 18
        assert not here.faults


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_it_fits_and_axe_finds_nothing(chromium, page, width, scheme):
    with opened(chromium, page, width, scheme) as here:
        assert here.page.evaluate(OVERHANG) <= 0
        for control in here.page.locator("#play-controls :is(input, button)").all():
            box = control.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
        found = Axe().run(here.page).response["violations"]
        assert [f"{v['id']}: {[node['target'] for node in v['nodes'][:3]]}" for v in found] == []
        assert not here.faults


def test_nothing_moves_for_those_who_want_no_motion(chromium):
    duration = "getComputedStyle(document.querySelector('.play-bar i')).transitionDuration"
    with opened(chromium, ALONE) as here:
        assert here.page.evaluate(duration) == "0.25s"
        here.page.emulate_media(reduced_motion="reduce")
        assert here.page.evaluate(duration) == "0s"
