"""CONTRIBUTING.md and the files of .github name what is there, and the workflows' own names fit together."""

import importlib.util
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from fleke_lib.reproduce.__main__ import parser
from tests.test_house import ROOMS

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
GUIDE = ROOT / "CONTRIBUTING.md"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
PAGES = [GUIDE, GITHUB / "pull_request_template.md", GITHUB / "dependabot.yml", *FORMS, *WORKFLOWS]
TO_COME: set[str] = set()  # paths that the guide says are to come; whoever makes one takes it out here and there
PATTERNS = {"notebooks/NN_name.ipynb"}  # stands for any file of this form
CODE = re.compile(r"^ *```\w*\n(.*?)^ *```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
TOP = re.compile(r"[\w*.-]+\.(?:md|lock|toml|cff)|Makefile")
CONTEXTS = {"github", "env", "steps", "needs", "runner"}
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(path: Path) -> list[str]:
    """What a page has as code: blocks and spans of Markdown, everything of YAML."""
    text = path.read_text(encoding="utf-8")
    return [block or span for block, span in CODE.findall(text)] if path.suffix == ".md" else [text]


def named_paths(piece: str) -> set[str]:
    """The words of a piece of code that are paths from the root, or files at the root."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"build", ".venv"}
    words = (word.strip("\"':;,()").rstrip("/.") for word in re.split(r"[\s=]+", piece))
    return {word for word in words if (word.partition("/")[0] in folders and "/" in word) or TOP.fullmatch(word)}


def loaded(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs() -> list[tuple[str, dict]]:
    return [(f"{path.stem}.{name}", job) for path in WORKFLOWS for name, job in loaded(path)["jobs"].items()]


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_path_that_is_named_is_there(page):
    for word in sorted({word for piece in code(page) for word in named_paths(piece)} - TO_COME - PATTERNS):
        assert list(ROOT.glob(word)), f"{label(page)} names {word}, which is not there"


def test_what_is_to_come_has_not_come():
    for word in TO_COME:
        assert word in GUIDE.read_text(encoding="utf-8")
        assert not (ROOT / word).exists(), f"{word} is there: say so in CONTRIBUTING.md, and take it from TO_COME"


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_make_target_is_there(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in {target for piece in code(page) for target in re.findall(r"\bmake ([a-z]+)", piece)}:
        assert target in targets, f"{label(page)} calls make {target}, which is no target of the Makefile"


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_command_is_one(page):
    """Modules exist, `fleke_lib.reproduce` knows its arguments, and a script of the repository may be run."""
    text = "\n".join(code(page)).replace("\\\n", " ")
    for module, rest in re.findall(r"python -m ([\w.]+)([^\n`|]*)", text):
        assert importlib.util.find_spec(module), f"{label(page)} runs {module}, which is not there"
        if module == "fleke_lib.reproduce" and rest.strip():
            parser().parse_args(shlex.split(rest))
    for script in re.findall(r"run: (\.ci/\w+)", text):
        assert os.access(ROOT / script, os.X_OK)


def test_the_table_of_rooms_is_the_house_from_the_ground_up():
    table = GUIDE.read_text(encoding="utf-8").partition("| room |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", table, re.MULTILINE)
    assert [room for room, _ in rows] == [room or "fleke_lib" for room in ROOMS]


def test_the_form_for_chapters_lists_every_chapter():
    dropdown = next(
        part for part in loaded(GITHUB / "ISSUE_TEMPLATE" / "chapter.yml")["body"] if part["type"] != "markdown"
    )
    chapters = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
    assert dropdown["attributes"]["options"][: len(chapters)] == chapters
    assert not [option for option in dropdown["attributes"]["options"][len(chapters) :] if option[:1].isdigit()]


@pytest.mark.parametrize(("name", "job"), jobs(), ids=[name for name, _ in jobs()])
def test_a_job_ends_asks_for_little_and_names_what_it_has(name, job):
    """Linters of schemas do not look into expressions, and a misspelt name there is an empty text at run time."""
    siblings = loaded(GITHUB / "workflows" / f"{name.partition('.')[0]}.yml")["jobs"]
    assert job["timeout-minutes"] < 360
    assert job["permissions"].keys() <= {"contents", "pages", "id-token"}
    assert job["permissions"].get("contents", "read") == "read"
    needs = job.get("needs", [])
    assert set([needs] if isinstance(needs, str) else needs) <= siblings.keys()
    ids = {step["id"] for step in job["steps"] if "id" in step}
    expressions = EXPRESSION.findall(str(job)) + [str(part["if"]) for part in (job, *job["steps"]) if "if" in part]
    for expression in expressions:
        check_expression(expression)
        assert set(re.findall(r"\bsteps\.(\w+)", expression)) <= ids


@pytest.mark.parametrize("path", WORKFLOWS, ids=label)
def test_a_workflow_gives_nothing_away_and_pins_each_action_to_one_commit(path):
    whole, text = loaded(path), path.read_text(encoding="utf-8")
    assert whole["permissions"] == {}
    assert whole["concurrency"]["group"].startswith(path.stem)
    assert text.count("${{") == len(EXPRESSION.findall(text))
    for expression in EXPRESSION.findall(text):
        check_expression(expression)
    assert len(re.findall(r"uses:", text)) == len(pins(path))


def check_expression(expression: str) -> None:
    """Its quotes are closed, and what it reads is something that workflows have."""
    outside = re.sub(r"'[^']*'", "", expression)
    assert "'" not in outside, f"{expression!r} has a quote that is not closed"
    assert set(re.findall(r"(?<![\w.-])([a-z]\w*)\.", outside)) <= CONTEXTS


def pins(path: Path) -> list[tuple[str, str, str]]:
    """The actions of a workflow: name, commit, version."""
    return re.findall(
        r"uses: ([\w/-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE
    )


def test_the_pages_workflow_publishes_the_site_that_make_run_writes():
    steps = loaded(GITHUB / "workflows" / "pages.yml")["jobs"]["build"]["steps"]
    ran = [i for i, step in enumerate(steps) if step.get("run") == "make run"]
    sent = {i: step["with"]["path"] for i, step in enumerate(steps) if "upload-pages" in step.get("uses", "")}
    assert len(ran) == 1 and list(sent.values()) == ["build/site"] and ran[0] < min(sent)
    assert "-m tools.run_notebooks" in (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nrun: ")[2]


def test_an_action_is_the_same_everywhere():
    used = {pin for path in WORKFLOWS for pin in pins(path)}
    assert len({name for name, _, _ in used}) == len(used)


def test_lint_reads_every_file_of_github():
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    said = subprocess.run(
        ["make", "--dry-run", "lint"], cwd=ROOT, env=plain, capture_output=True, text=True, check=True
    ).stdout
    assert {label(path) for path in GITHUB.rglob("*.yml")} == set(re.findall(r"\.github/[\w/-]+\.yml", said))
    assert "zizmor --offline" in said
