"""Answers of the teacher's page are folded under a notebook's closing questions, once, with links that resolve."""

from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.answers import answers, with_answers
from tools.markdown import to_html

PAGE = """\
# Teaching

### Chapter 00: start

Answers to its closing questions:

*Question 1.* **One.** See [there](../notebooks/01_b.ipynb#It), [a word](glossary.md#key) or [elsewhere](https://a.b).

| a | b |
|---|---|
| 1 | 2 |

*Question 2.* **Two**, which is $x^2$.

### Chapter 01: next

Nothing is asked.
"""
CLOSING = (
    "## What we have shown\n\n- This.\n\n## Three questions\n\n1. Why?\n   Really?\n2. And how?\n\nThree exercises."
)


def notebook(closing: str = CLOSING):
    return new_notebook(cells=[new_markdown_cell("# A"), new_code_cell("1. "), new_markdown_cell(closing)])


def folded(one, root: Path):
    return with_answers(one, answers(PAGE, "00"), root / "notebooks", root / "docs" / "teaching.md")


def test_a_chapters_answers_are_its_own():
    assert [answer[:7] for answer in answers(PAGE, "00")] == ["**One.*", "**Two**"]
    assert answers(PAGE, "01") == answers(PAGE, "02") == []


def test_they_come_after_the_list_of_questions(tmp_path):
    text = folded(notebook(), tmp_path).cells[-1].source
    before, first, second = text.split("<details>")
    assert before.endswith("2. And how?\n\n") and second.endswith("</details>\n\nThree exercises.")
    assert "question 1" in first and "| 1 | 2 |" in first and "question 2" in second


def test_they_are_there_once_and_follow_the_page(tmp_path):
    once = folded(notebook(), tmp_path)
    assert folded(once, tmp_path) == once
    other = with_answers(once, ["New."], tmp_path / "notebooks", tmp_path / "docs" / "teaching.md").cells[-1].source
    assert other.count("<details>") == 1 and "New." in other and other.endswith("Three exercises.")


def test_links_lead_where_they_led(tmp_path):
    text = folded(notebook(), tmp_path).cells[-1].source
    for link in ("[there](01_b.ipynb#It)", "[a word](../docs/glossary.md#key)", "[elsewhere](https://a.b)"):
        assert link in text


def test_the_site_keeps_them_folded_with_their_formulas(tmp_path):
    html = to_html(folded(notebook(), tmp_path).cells[-1].source)
    assert html.count("<details>") == html.count("</details>") == 2
    second = html.rpartition("<details>")[2]
    assert "<math" in second.partition("</details>")[0] and "$" not in second


def test_a_chapter_without_answers_is_left_as_it_is_and_one_without_questions_refused(tmp_path):
    one = notebook()
    assert with_answers(one, [], tmp_path, tmp_path / "teaching.md") == one
    with pytest.raises(ValueError, match="no cell under a heading"):
        folded(notebook("## The end"), tmp_path)
