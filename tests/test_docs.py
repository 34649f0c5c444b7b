"""The documents say what is there: links lead somewhere, names exist, the teacher's page keeps up with the chapters."""

import ast
import importlib
import math
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from fleke_lib.figures.catalogue import catalogue
from tools.declared import declaration, number_of, numbered_notebooks, read_notebook
from tools.publish import LIMIT, answered
from tools.reading import stale

ROOT = Path(__file__).parents[1]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "data").glob("*.md"))]
READ = sorted((ROOT / "read").glob("*.md"))  # the chapters, written by make publish
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")
NAME = re.compile(r"\b(?:fleke|fleke_lib)(?:\.[A-Za-z_]\w*)+")
MANDATORY = {"cff-version", "message", "title", "authors"}  # the Citation File Format, version 1.2.0
CHAPTERS = numbered_notebooks(ROOT / "notebooks")
TOUR = [path for path in CHAPTERS if path.name < "08" or path.name >= "10"]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """A page without its code."""
    return SPAN.sub("", FENCE.sub("", text(path)))


def code(path: Path) -> list[str]:
    """What stands in code blocks and code spans."""
    blocks = [block for _, block in FENCE.findall(text(path))]
    return blocks + SPAN.findall(FENCE.sub("", text(path)))


def anchors(path: Path) -> set[str]:
    """What a link may name in a file: headings as GitHub names them, or as JupyterLab does in a notebook."""
    if path.suffix == ".ipynb":
        cells = "\n".join(cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown")
        return {title.strip().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", cells, re.MULTILINE)}
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", FENCE.sub("", text(path)), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(name if name not in found else f"{name}-{sum(other.startswith(name) for other in found)}")
    return found


def sections(path: Path, level: int) -> dict[str, str]:
    """Heading to text, of one level; what stands under deeper headings is included."""
    parts = re.split(rf"^{'#' * level} (.+)$", text(path), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def resolve(name: str) -> object:
    """The thing that a dotted name stands for; the longest part of it that is a module is looked in."""
    parts = ["fleke_lib", *name.split(".")[1:]]
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError("fleke_lib itself does not import")


@pytest.mark.parametrize("page", [*PAGES, *READ], ids=label)
def test_every_relative_link_leads_to_a_file_and_to_a_heading_in_it(page):
    links = [link for link in LINK.findall(prose(page)) if not ELSEWHERE.match(link)]
    for link in links:
        file, _, fragment = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{label(page)} links to {link}, which is not there"
        assert target.is_relative_to(ROOT), f"{label(page)} links to {link}, outside the repository"
        if fragment:
            assert fragment in anchors(target), f"{label(page)} links to {link}, but there is no such heading"


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_the_page_to_read_is_the_chapters(source):
    assert (why := stale(ROOT / "read" / f"{source.stem}.md", source)) is None, why


def test_the_pages_to_read_are_small_have_all_their_pictures_and_say_what_these_show():
    files = [path for path in (ROOT / "read").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    shown = [picture for page in READ for picture in re.findall(r"!\[(.*)\]\((figures/.*?)\)", prose(page))]
    assert all(alt.strip() for alt, _ in shown)
    assert {ROOT / "read" / place for _, place in shown} == {path for path in files if path.suffix == ".png"}


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_name_of_the_library_exists(page):
    for name in sorted({name for piece in code(page) for name in NAME.findall(piece)}):
        try:
            resolve(name)
        except (AttributeError, ImportError) as error:
            pytest.fail(f"{label(page)} names {name}, which is not there: {error}")


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_python_blocks_parse_and_import_what_exists(page):
    for block in [block for language, block in FENCE.findall(text(page)) if language == "python"]:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fleke_lib":
                for alias in node.names:
                    resolve(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_module_that_is_to_be_run_exists(page):
    for module in re.findall(r"python -m ([\w.]+)", text(page)):
        assert importlib.util.find_spec(module), f"{label(page)} runs {module}, which is not there"


def test_the_glossary_is_in_order_and_says_where_each_word_is_introduced():
    entries = sections(ROOT / "docs" / "glossary.md", 2)
    names = re.findall(r"^## (.+)$", text(ROOT / "docs" / "glossary.md"), re.MULTILINE)
    assert len(names) > 60
    assert names == sorted(names, key=str.casefold)
    assert len({name.casefold() for name in names}) == len(names)
    for name, words in entries.items():
        assert re.search(r"Chapter\s\[(\d\d[a-z]?)\]\(\.\./notebooks/\1_\w+\.ipynb\)\.\s*$", words), (
            f"{name} has no chapter"
        )


@pytest.mark.parametrize("path", TOUR, ids=lambda path: path.stem)
def test_the_teachers_page_has_a_chapters_goals_and_answers_every_question(path):
    teaching = sections(ROOT / "docs" / "teaching.md", 3)
    notebook = read_notebook(path)
    found = [words for heading, words in teaching.items() if heading.startswith(f"Chapter {number_of(path)}:")]
    assert len(found) == 1, f"docs/teaching.md needs one section on chapter {number_of(path)}"
    said = " ".join(found[0].split())
    for goal in declaration(path, notebook).goals:
        assert goal in said, f"docs/teaching.md lacks the goal {goal!r} of {path.name}: copy it from there"
    closing = notebook.cells[-1].source.rpartition("\n## Three ")[2]
    questions = re.findall(r"^\d\. ", closing, re.MULTILINE)
    assert questions, f"{path.name} ends without its questions"
    answers = re.split(r"\*Question \d\.\*", found[0])[1:]
    assert len(answers) == len(questions)
    assert all(len(answer.split()) > 30 for answer in answers)


def test_on_another_model_chapters_00_to_06b_run_as_the_texts_say():
    tour = [declaration(path, read_notebook(path)) for path in CHAPTERS]
    assert [stop.number for stop in tour if not stop.default_only] == [*(f"0{i}" for i in range(7)), "06b"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapters_folded_answers_are_the_teachers_pages(path):
    assert answered(path) == read_notebook(path), f"{path.name} has other answers than docs/teaching.md: make publish"


@pytest.mark.parametrize(("plan", "minutes"), [("One lecture of 50 minutes", 50), ("One class of 90 minutes", 90)])
def test_a_plan_takes_its_time(plan, minutes):
    table = sections(ROOT / "docs" / "teaching.md", 3)[plan].partition("**The assignment")[0]
    assert sum(map(int, re.findall(r"^\| (\d+) \|", table, re.MULTILINE))) == minutes


def test_the_class_has_questions_with_answers_and_an_assignment_whose_points_add_up():
    plan = sections(ROOT / "docs" / "teaching.md", 3)["One class of 90 minutes"]
    questions = re.split(r"\*Discussion \d\.\*", plan.partition("**The assignment")[0])[1:]
    assert len(questions) >= 5 and all("?" in one and len(one.split()) > 40 for one in questions)
    rubric = plan.partition("**The assignment")[2]
    assert sum(map(int, re.findall(r"^\| (\d) \|", rubric, re.MULTILINE))) == 20 and "twenty points" in rubric
    assert len(re.findall(r"^\d\. ", rubric, re.MULTILINE)) >= 5


def test_every_figure_that_the_teachers_page_names_is_drawn_by_a_chapter():
    named = set(re.findall(r"\b(?:0\d[a-z]?|10)-[a-z][a-z-]*[a-z]\b", text(ROOT / "docs" / "teaching.md")))
    assert named and named <= catalogue().keys()


def test_the_citation_is_whole_and_of_this_version():
    citation = yaml.safe_load(text(ROOT / "CITATION.cff"))
    project = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]
    assert citation.keys() >= MANDATORY
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]
    for work in citation["references"]:
        assert work.keys() >= {"type", "title", "authors", "year"}
        assert all({"family-names", "given-names"} <= author.keys() for author in work["authors"])
    known = {one["value"] for work in citation["references"] for one in work["identifiers"]}
    assert known == {"arXiv:2502.15677", "arXiv:2210.07229", "arXiv:2202.05262"}
    assert citation["references"][0]["doi"] == "10.18653/v1/2025.findings-acl.733"


@pytest.mark.model
def test_the_model_card_has_the_models_own_figures(lm):
    card = text(ROOT / "docs" / "model.md")
    assert lm.fingerprint(lm.preset.layers) in card
    assert ", ".join(map(str, lm.preset.layers)) in card
    for figure in (lm.d_model, lm.d_mlp, lm.n_layers, f"{len(lm.embeddings.weight):,}"):
        assert str(figure) in card


@pytest.mark.model
def test_the_data_cards_count_what_is_shipped(lm):
    from safetensors.torch import load_file

    from fleke_lib.edit.moments import SAMPLE_TEXT, sample_text
    from fleke_lib.mkv.store import SHIPPED

    mkvs, sample = text(ROOT / "data" / "mkvs.md"), text(ROOT / "data" / "sample_text.md")
    for file in SHIPPED.glob("*.safetensors"):
        row = next(line for line in mkvs.splitlines() if file.name in line)
        assert f"| {len(load_file(file)['z'])}," in row
        assert f"{file.stat().st_size / 1e6:.1f} MB" in row
    lengths = [len(lm.tokenizer(document).input_ids) for document in sample_text()]
    for figure in (len(lengths), sum(lengths), SAMPLE_TEXT.stat().st_size):
        assert f"{figure:,}" in sample
    assert f"{min(lengths)} to {max(lengths)} a document" in sample


@pytest.mark.model
def test_the_data_card_of_harm_counts_what_is_shipped(lm):
    from fleke_lib.evaluation import log_probs, prepare_harm

    card, harm = text(ROOT / "data" / "harm.md"), prepare_harm(lm)
    heads, tails = zip(*(one.split(maxsplit=1) for one in harm.texts), strict=True)
    lengths = [
        len(lm.tokenizer(one).input_ids) - len(lm.tokenizer(head).input_ids)
        for one, head in zip(harm.texts, heads, strict=True)
    ]
    lost = -sum(p * n for p, n in zip(log_probs(lm, heads, tails).tolist(), lengths, strict=True))
    assert f"{len(harm.texts)} texts" in card and f"{sum(lengths):,} predicted tokens" in card
    assert f"(its perplexity there is {math.exp(lost / sum(lengths)):.1f})" in card
    assert f"{len(harm.prompts)} beginnings" in card
    assert f"{len(harm.questions)} (question, answer) pairs" in card and f"{len(harm.questions)} kept" in card
