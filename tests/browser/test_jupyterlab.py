"""In JupyterLab: chapter 00 runs from the menu, its figures show, and chapter 04's dial changes what it shows."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.browser.lab import errors, lab_server, outputs, run_all
from tests.browser.opening import PATIENCE

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FIRST, DIAL = "00_start_here.ipynb", "dial.ipynb"
# What the cell with the dial stands on in chapter 04, of random numbers and without a model.
GROUND = """\
import torch

from fleke_lib.facts import Fact
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.retrieval import Threshold
from fleke_lib.federation.relevance import found_by
from fleke_lib.mkv import Mkv

torch.manual_seed(0)
facts = [Fact(f"Subject {i}", f"Relation {i % 4} of {{}} is", "new", "old", relation=f"P{i % 4}") for i in range(24)]
centres = torch.randn(4, 16)
mkvs = {fact: Mkv(centres[i % 4] + torch.randn(16), torch.randn(16)) for i, fact in enumerate(facts)}
parts = partition(facts, clients=4, slots=1, seed=0)"""
SHOWN = """output => [
    ...[...output.querySelectorAll("img")].map(i => i.src),
    ...[...output.querySelectorAll(".widget-label, .widget-html-content")].map(e => e.innerText),
].join("|")"""


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    """A page of the browser; ``page.lab`` has the place where the notebook's name goes in the address."""
    folder, private = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("private")
    shutil.copy(NOTEBOOKS / FIRST, folder)
    chapter = nbformat.read(NOTEBOOKS / "04_clustered_retrieval.ipynb", as_version=4)
    cells = [cell.source for cell in chapter.cells if cell.cell_type == "code" and "Slider" in cell.source]
    assert len(cells) == 1, "chapter 04 has one cell with a dial"
    short = new_notebook(cells=[new_code_cell(GROUND), new_code_cell(cells[0])], metadata=chapter.metadata)
    nbformat.write(short, folder / DIAL)
    with lab_server(folder, private) as address:
        window = chromium.new_page(viewport={"width": 1280, "height": 900})
        window.set_default_timeout(PATIENCE)
        window.lab = address
        yield window
        window.close()


@pytest.mark.model
def test_the_first_chapter_runs_from_the_menu_without_an_error_and_shows_its_figures(page):
    foreign = []
    page.on("request", lambda request: "//127.0.0.1:" in request.url or foreign.append(request.url))
    run_all(page, page.lab.format(FIRST))
    assert not errors(page)
    prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt").all_inner_texts()
    written = [cell for cell in nbformat.read(NOTEBOOKS / FIRST, as_version=4).cells if cell.cell_type == "code"]
    assert [prompt.strip("[]: ") for prompt in prompts] == [str(i + 1) for i in range(len(written))]
    figures = outputs(page).locator("img")
    assert figures.count() >= 1
    for figure in figures.all():
        figure.scroll_into_view_if_needed()
        assert figure.is_visible()
        assert figure.evaluate("i => i.naturalWidth") > 300
        assert figure.bounding_box()["width"] > 300
        assert figure.get_attribute("alt")
    assert not [url for url in foreign if url.startswith("http")]


def test_turning_the_dial_of_chapter_04_changes_what_it_shows(page):
    run_all(page, page.lab.format(DIAL))
    assert not errors(page)
    output = outputs(page).last
    handle = output.locator(".noUi-handle")
    handle.wait_for()
    before = output.evaluate(SHOWN)
    assert before.strip("|")
    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(f"([output, before]) => ({SHOWN})(output) !== before", arg=[output.element_handle(), before])
    assert not errors(page)
