"""The lock file that ``make lock`` writes works on every platform."""

from tools.install import pins
from tools.lock import OLDEST, neutral, requirements

RESOLVED = {
    "torch": "2.13.0+cpu",
    "nvidia-cublas-cu12": "12.8.4.1",
    "triton": "3.5.0",
    "Jinja2": "3.1.6",
    "attrs": "26.1",
}


def test_tags_and_cuda_libraries_go_and_the_rest_is_sorted():
    assert pins(neutral(RESOLVED)) == ["attrs==26.1", "Jinja2==3.1.6", "torch==2.13.0"]
    assert neutral(RESOLVED).startswith("# ")


def test_requirements_include_the_extras():
    text = '[project]\ndependencies = ["a>=1"]\n[project.optional-dependencies]\ndev = ["b<2"]\n'
    assert [str(requirement) for requirement in requirements(text)] == ["a>=1", "b<2"]


def test_the_oldest_python_is_the_first_that_the_bound_allows():
    from pathlib import Path

    assert f'requires-python = ">={OLDEST.removesuffix(".0")}"' in Path("pyproject.toml").read_text(encoding="utf-8")
