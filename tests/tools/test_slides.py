"""The slides are one file that loads nothing, show only figures of the notebooks, and report missing ones."""

import ast
import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from tools.slides import SOURCE, main, read_slides, write_slides

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"[0-9]{2}[a-z]?(-[a-z0-9]+)+")
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
MINUTES = {"One minute": 1, "Two minutes": 2, "Three minutes": 3}
EMPTY = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What a browser would see of a page: its elements in order, and what lies inside which."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.words_in: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        for tag in set(self.open):
            self.words_in[tag] = self.words_in.get(tag, "") + data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def drawn_by_notebooks() -> set[str]:
    """Names of all pictures that some cell draws: given in the call, or the default of the function that it calls."""
    defaults = {}
    for path in sorted((ROOT / "fleke_lib" / "figures").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                values = [*node.args.defaults, *node.args.kw_defaults]
                names = [v.value for v in values if isinstance(v, ast.Constant) and NAME.fullmatch(str(v.value))]
                if names:
                    (defaults[node.name],) = names
    assert len(defaults) > 20
    found = set()
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        calls = [node for cell in cells for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call)]
        for call in calls:
            values = [*call.args, *(keyword.value for keyword in call.keywords)]
            given = {v.value for v in values if isinstance(v, ast.Constant) and NAME.fullmatch(str(v.value))}
            function = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            found |= given or {defaults[function]} if function in defaults else given
    return found


def slides() -> list:
    return read_slides(SOURCE.read_text(encoding="utf-8"))[1]


def named() -> list[str]:
    return [name for slide in slides() for name in slide.figures]


@pytest.fixture
def figures(tmp_path):
    """Stand-ins for all pictures that the slides show, with alt texts that need escaping."""
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in named():
        (folder / f"{name}.png").write_bytes(PIXEL)
        words = {"name": name, "alt": f'What "{name}" shows: a < b & c', "caption": f"Caption of {name}", "data": {}}
        (folder / f"{name}.json").write_text(json.dumps(words), encoding="utf-8")
    return folder


@pytest.fixture
def page(figures, tmp_path):
    write_slides(figures, tmp_path / "site" / "slides.html")
    return Page((tmp_path / "site" / "slides.html").read_text(encoding="utf-8"))


def test_every_figure_on_a_slide_is_drawn_by_a_notebook():
    assert len(named()) > 10
    assert set(named()) <= drawn_by_notebooks()


def test_every_figure_in_the_teachers_plans_is_drawn_too():
    plans = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    cells = [cell.strip() for line in plans.splitlines() if line.startswith("|") for cell in re.split(r"[|,]", line)]
    found = {cell for cell in cells if NAME.fullmatch(cell)}
    assert len(found) > 10
    assert found <= drawn_by_notebooks()


def test_nothing_is_loaded_but_the_file_itself(page):
    assert all(attrs["src"].startswith("data:") for _, attrs in page.tags if "src" in attrs)
    assert not page.all("link") and "url(" not in page.words_in["style"] and "@import" not in page.words_in["style"]
    for word in ("fetch(", "import(", "XMLHttpRequest", "http:", "https:"):
        assert word not in page.words_in["script"]


def test_every_picture_says_its_own_alt_text_and_caption(page):
    assert [image["alt"] for image in page.all("img")] == [f'What "{name}" shows: a < b & c' for name in named()]
    assert len(page.all("figcaption")) == len(named())


def test_every_slide_stands_in_order_and_can_be_read_without_a_script(page):
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1"] + ["h2"] * len(slides())
    assert [attrs["id"] for attrs in page.all("section")] == [f"slide-{i + 1}" for i in range(len(slides()))]
    assert page.all("body") == [{}]  # the script adds the class that shows one slide at a time
    assert not page.unbalanced
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_formulas_are_mathml_and_none_is_left_as_latex(page):
    assert len(page.all("math")) >= 10
    text = "".join(words for tag, words in page.words_in.items() if tag in ("p", "li", "td", "math"))
    assert "$" not in text and "\\" not in text


def test_notes_are_folded_and_their_minutes_make_the_lecture(page):
    assert page.all("details") == [{}] * len(slides())
    opening = [slide.notes.split(".")[0] for slide in slides()]
    assert all(slide.notes.split()[-1] in page.words_in["details"] for slide in slides())
    assert len(page.all("summary")) == len(slides()) and "Notes:" not in "".join(page.words_in.values())
    assert sum(MINUTES[words] for words in opening) == 50


def test_a_link_to_a_notebook_leads_to_its_page(page):
    leads = [attrs["href"] for attrs in page.all("a") if attrs["href"].endswith(".html")]
    assert "00_start_here.html" in leads


def test_a_figure_that_was_not_drawn_is_named_with_the_chapter_to_run(figures, tmp_path):
    (figures / "02-methods.json").unlink()
    with pytest.raises(ValueError, match=r"02-methods.*make run NOTEBOOKS=notebooks/02_editing\.ipynb"):
        write_slides(figures, tmp_path / "slides.html")
    assert not (tmp_path / "slides.html").exists()


def test_the_command_says_so_in_one_line(figures, tmp_path, capsys):
    assert main(["--figures", str(figures), "--target", str(tmp_path / "slides.html")]) == 0
    (figures / "00-one-edit.png").unlink()
    assert main(["--figures", str(figures), "--target", str(tmp_path / "slides.html")]) == 1
    error = capsys.readouterr().err
    assert "00-one-edit" in error and error.count("\n") == 1


def test_a_drawing_goes_before_a_photograph_of_it(figures, tmp_path):
    (figures / "00-one-edit.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding="utf-8")
    write_slides(figures, tmp_path / "slides.html")
    images = Page((tmp_path / "slides.html").read_text(encoding="utf-8")).all("img")
    assert [image["src"].partition(";")[0] for image in images[:2]] == ["data:image/svg+xml", "data:image/png"]


@pytest.mark.parametrize("text", ["## A slide without a deck", "# A deck without slides"])
def test_a_deck_needs_a_title_and_slides(text):
    with pytest.raises(ValueError, match="the slides need"):
        read_slides(text)


def test_a_name_of_no_chapter_is_told_apart(tmp_path):
    source = tmp_path / "slides.md"
    source.write_text("# Deck\n\n## Slide\n\nFigure: 77-nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"77-nothing.*no chapter has that number"):
        write_slides(tmp_path, tmp_path / "slides.html", source)
