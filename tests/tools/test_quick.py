"""`make quick`: the page has its four figures, and its numbers are the library's."""

import json

import numpy as np
import pytest
from bs4 import BeautifulSoup

import fleke_lib as fleke
from fleke_lib.federation import Everyone, VectorProvider, run_fedit, weights
from fleke_lib.figures.style import VARIABLE
from fleke_lib.unlearn.edits import weights_hash
from tools import quick
from tools.links import dangling
from tools.pages import faults

SECRET = b"known to both hospitals"


@pytest.fixture(scope="module")
def provider(lm):
    """One for all runs here, so that each fact's vectors are computed once."""
    return VectorProvider(lm)


@pytest.fixture(scope="module")
def written(lm, provider, tmp_path_factory):
    """The folder that a run has written, the numbers on its page, and the MKV that it has optimised."""
    build, found = tmp_path_factory.mktemp("a build"), []
    compute = fleke.compute_mkvs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleke, "load_model", lambda: lm)
        patch.setattr(fleke, "compute_mkvs", lambda *given: found.extend(compute(*given)) or found)
        patch.setattr(quick, "VectorProvider", lambda _: provider)
        patch.setenv(VARIABLE, "")  # restores what the run sets
        page = quick.run_all(build, SECRET)
    assert page == build / "quick" / "index.html"
    return build, json.loads((build / "quick" / "numbers.json").read_text(encoding="utf-8")), found


@pytest.mark.model
@pytest.mark.slow
def test_the_page_has_four_figures_and_links_to_every_chapter(written):
    build, found, _ = written
    html = (build / "quick" / "index.html").read_text(encoding="utf-8")
    page = BeautifulSoup(html, "html.parser")
    pictures = page.select("figure > img")
    assert len(pictures) == 4 and all(len(picture["alt"]) > 40 for picture in pictures)
    assert len(list((build / "quick").glob("*.png"))) == 4
    assert faults(html) == [] and dangling([build / "quick" / "index.html"]) == []
    links = {link["href"] for link in page.find_all("a")}
    assert {f"../site/{path.stem}.html" for path in (quick.ROOT / "notebooks").glob("[0-9]*.ipynb")} <= links
    assert "../site/playground.html" in links
    text = " ".join(page.get_text().split())
    assert f"{100 * found['one']['after'][0][1]:.0f}%" in text
    assert f"{found['shared']['bytes']:,.0f} bytes" in text
    assert found["left"]["hashes"]["withdrawn"][:16] in text


@pytest.mark.model
@pytest.mark.slow
def test_its_numbers_are_the_librarys(lm, provider, written):
    one, shared, left = (written[1][part] for part in ("one", "shared", "left"))
    moments = fleke.second_moments(lm)
    assert len(written[2]) == 1 and written[2][0].steps == one["steps"] > 0
    with fleke.edit.memit(lm, [quick.FRANCE], written[2], moments).applied(lm):
        assert np.allclose(one["after"], quick.probabilities(lm), atol=1e-6)
    assert np.allclose(one["before"], quick.probabilities(lm), atol=1e-6) and one["undone"]
    assert one["before"][0][0] > one["before"][0][1] and one["after"][0][1] > 0.5

    parts = quick.hospitals()
    facts = [fact for part in parts for fact in part.facts]
    run = run_fedit(lm, parts, Everyone(), provider=provider, secret=SECRET)
    both = weights.cumulative(run, quick.STAYS, moments)
    with both.applied(lm):
        again = fleke.evaluate(lm, facts)
    assert np.allclose(shared["probability"]["shared"], again.per_fact["probability"], atol=1e-6)
    assert (shared["packets"], shared["adopted"], shared["words_in_packets"]) == (8, 4, 0)
    assert shared["top1_shared"] == again.top1 > shared["top1_before"]

    alone = run_fedit(lm, parts[1:], Everyone(), provider=provider, secret=SECRET)
    goal = weights.cumulative(alone, quick.STAYS, moments)
    assert left["equal"] and left["hashes"]["withdrawn"] == left["hashes"]["never joined"]
    assert left["hashes"]["shared"] != left["hashes"]["withdrawn"]
    assert weights_hash(lm, goal) == left["hashes"]["withdrawn"]
    assert left["missed_by_subtracting"] > 0.01
    assert left["top1_withdrawn"]["withdrawn"] == left["top1_withdrawn"]["never joined"]


@pytest.mark.parametrize(
    ("environment", "platform", "opens"),
    [
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({}, "linux", False),
        ({}, "darwin", True),
        ({"CI": "true", "DISPLAY": ":0"}, "linux", False),
        ({"CI": "true"}, "darwin", False),
    ],
)
def test_the_page_opens_only_where_somebody_may_see_it(environment, platform, opens):
    assert quick.may_open(environment, platform) == opens
