"""The parts of the site that need no run: links, headings, documents, exercises, the tour's picture, the search."""

import base64
import json
import re
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from tests.browser.little_tour import save, write_checkout
from tools.contents import THUMBNAIL, thumbnail
from tools.declared import declaration, numbered_notebooks, read_notebook
from tools.documents import documents
from tools.links import Lead, dangling
from tools.markdown import Anchors, github_anchor, to_html
from tools.picture import balanced, tour_picture
from tools.search import script
from tools.sections import Section, first_figure, sections
from tools.site import Site
from tools.tour import exercises, stops


@pytest.fixture
def site(tmp_path) -> Site:
    """The little tour's site; nothing is written and nothing has run."""
    notebooks = write_checkout(tmp_path / "a checkout") / "notebooks"
    tour = [declaration(path, read_notebook(path)) for path in numbered_notebooks(notebooks)]
    return Site(tmp_path / "site", notebooks, tour)


def png(width: int, height: int) -> str:
    """An embedded picture of a size."""
    data = BytesIO()
    Image.new("RGB", (width, height), "navy").save(data, "png")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def test_a_site_without_any_run_is_whole_and_says_so(site):
    assert site.write_unrun() == []
    site.write_contents({})
    assert site.write_search() == []
    written = {path.name for path in site.folder.iterdir()}
    assert written == {
        "00_first.html", "01_second.html", "02_third.html", "exercises_01_second.html", "words.html",
        "index.html", "search-index.js", "site.js",
    }  # fmt: skip
    assert "make run NOTEBOOKS=notebooks/02_third.ipynb" in (site.folder / "02_third.html").read_text()
    assert (site.folder / "index.html").read_text().count("not run yet") == 3


def test_slides_are_linked_once_they_are_there(site):
    site.write_contents({})
    assert "slides.html" not in (site.folder / "index.html").read_text()
    (site.folder / "slides.html").touch()
    site.write_contents({})
    assert 'href="slides.html"' in (site.folder / "index.html").read_text()


def test_slides_are_written_when_their_figures_are_drawn_and_else_say_what_to_run(site, tmp_path):
    assert site.write_slides(tmp_path) == []
    deck = site.notebooks.parent / "docs" / "slides.md"
    deck.write_text("# Deck\n\n## One\n\nFigure: 00-line\n", encoding="utf-8")
    (sentence,) = site.write_slides(tmp_path)
    assert "the figure 00-line, which is not in" in sentence
    assert not (site.folder / "slides.html").exists()
    deck.write_text("# Deck\n\n## One\n\ntext\n", encoding="utf-8")
    assert site.write_slides(tmp_path) == []
    assert "<title>Deck: slides</title>" in (site.folder / "slides.html").read_text()


def test_a_page_with_results_stays_when_another_chapter_runs(site):
    site.folder.mkdir()
    (site.folder / "00_first.html").write_text("<h1>with results</h1>")
    site.write_unrun()
    assert (site.folder / "00_first.html").read_text() == "<h1>with results</h1>"
    assert "data-without-results" in (site.folder / "01_second.html").read_text()


def test_links_that_lead_nowhere_are_named(site):
    links = "[a](01_second.ipynb#What-it-eats) [b](01_second.ipynb#what-it-eats) [c](gone.md) [d](#Here)"
    save(site.notebooks / "02_third.ipynb", f"# Third\n\n## Here\n\n{links}")
    site.write_unrun()
    site.write_contents({})
    assert site.write_search() == [
        "02_third.html links to 01_second.html#what-it-eats, which is not there: mend the link in its source.",
        "02_third.html links to gone.md, which is not there: mend the link in its source.",
    ]


def test_links_lead_to_pages_or_out_or_nowhere(tmp_path):
    source, other = tmp_path / "docs" / "a.md", tmp_path / "notebooks" / "00_b.ipynb"
    for path in (source, other, tmp_path / "Makefile"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    lead = Lead(source, {source: "a.html", other: "00_b.html"})
    assert lead("../notebooks/00_b.ipynb#x") == "00_b.html#x"
    assert lead("a.md") == "a.html"
    assert lead("../Makefile") is None
    for address in ("#x", "https://example.org/a.md", "mailto:a@example.org", "missing.md"):
        assert lead(address) == address


def test_dangling_follows_escaped_and_quoted_names(tmp_path):
    page = tmp_path / "a b.html"
    page.write_text('<h2 id="what&#x27;s-new?">x</h2><a href="a%20b.html#what%27s-new%3F">x</a><a href="b.html">y</a>')
    assert [sentence.split(",")[0] for sentence in dangling([page])] == ["a b.html links to b.html"]


def test_headings_get_the_names_that_jupyter_and_github_give_them_and_each_once():
    source = "## What *we* have shown, and `why`\n\n## Notes\n\n## Notes"
    names = re.compile(r'<h2 id="([^"]*)"')
    assert names.findall(to_html(source)) == ["What-we-have-shown,-and-why", "Notes", "Notes-1"]
    github = names.findall(to_html(source, anchors=Anchors(github_anchor)))
    assert github == ["what-we-have-shown-and-why", "notes", "notes-1"]


def test_text_cells_of_one_page_share_their_names():
    anchors = Anchors()
    assert 'id="Notes"' in to_html("# Notes", anchors=anchors)
    assert 'id="Notes-1"' in to_html("# Notes", anchors=anchors)


def test_sections_have_their_own_text_without_outputs():
    html = (
        '<p>before</p><main><h1 id="a">A <a class="anchor-link">#</a></h1><p>one <b>word</b></p>'
        '<div class="output_wrapper">4711</div><h2 id="b">B</h2><pre>x = <span>1</span></pre></main><p>after</p>'
    )
    assert sections(html) == [Section(1, "a", "A", "one word"), Section(2, "b", "B", "x = 1")]


def test_the_search_knows_every_section_of_every_page(site):
    site.write_unrun()
    site.write_contents({})
    site.write_search()
    text = (site.folder / "search-index.js").read_text(encoding="utf-8")
    entries = json.loads(text.removeprefix("window.flekeSearch(").removesuffix(");\n"))
    texts = {entry["address"]: entry["text"] for entry in entries}
    assert texts["01_second.html#Where-the-quokka-lives"] == "On Rottnest Island."
    assert texts["01_second.html#What-it-eats"].startswith("Leaves. from ipywidgets import IntSlider")
    assert [entry["address"] for entry in entries if entry["page"] == "Words"] == [
        "words.html",
        "words.html#a-long-word",
    ]
    assert "Folded away" in text


def test_the_search_index_of_no_page_is_empty():
    assert script([]) == "window.flekeSearch([]);\n"


def test_the_tour_has_announced_chapters_and_exercises(site):
    places = stops(site.tour, exercises(site.notebooks))
    assert [(stop.number, stop.title, stop.question) for stop in places] == [
        ("00", "First", "Can it be counted?"), ("01", "Second", "What follows?"),
        ("02", "Third", "And then?"), ("03", "Fourth", "Who knows?"),
    ]  # fmt: skip
    assert [bool(stop.chapter) for stop in places] == [True, True, True, False]
    assert [page.title for page in places[1].exercises] == ["Exercises: second"]


def test_the_picture_is_well_formed_and_links_to_what_is_there(site):
    drawings = ElementTree.fromstring(f"<div>{tour_picture(stops(site.tour, []))}</div>")
    for drawing in drawings:
        assert [link.get("href") for link in drawing.iter("a")] == ["00_first.html", "01_second.html", "02_third.html"]
        assert len(list(drawing.iter("circle"))) == 4
        width, height = map(int, drawing.get("viewBox").split()[2:])
        for circle in drawing.iter("circle"):
            assert 0 < int(circle.get("cx")) < width
            assert 0 < int(circle.get("cy")) < height
    assert len(drawings) == 2


def test_lines_are_about_equally_long():
    assert balanced("how do edits made apart become one model?", 36) == ["how do edits made apart", "become one model?"]
    assert balanced("short", 36) == ["short"]
    assert balanced("", 36) == []


def test_a_thumbnail_is_small_and_keeps_its_shape_and_words():
    alt, source = thumbnail("from &quot;0&quot;", png(1280, 500))
    assert alt == 'from "0"'
    image = Image.open(BytesIO(base64.b64decode(source.partition(",")[2])))
    assert image.size == (THUMBNAIL[0], 250)
    assert thumbnail("a line", "data:image/png;base64,AAAA") is None


def test_the_first_figure_of_a_page_is_found():
    assert first_figure(f'<p>x</p><figure><img alt="a" style="" src="{png(1, 1)}"></figure>') == ("a", png(1, 1))
    assert first_figure("<p>none</p>") is None


def test_documents_are_found_and_slides_are_not_one_of_them(tmp_path):
    for name, text in (("docs/b.md", "# B\n\ntext"), ("docs/slides.md", "# S"), ("data/a.md", "no heading")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert [(page.name, page.title) for page in documents(Path(tmp_path))] == [("b.html", "B"), ("a.html", "a")]
