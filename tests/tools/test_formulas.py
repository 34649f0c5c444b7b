"""Formulas become well-formed MathML, or an error names the formula."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.formulas import mathml
from tools.markdown import inline_html, to_html


@pytest.mark.parametrize(
    "latex",
    [
        r"dW_l = T_l (\lambda C_l + S_l)^{-1}",
        r"S_l = \sum_i \sum_c w_c\, k k^\top",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
        r"\arg\min_\delta \; \mathbb{E}\!\left[\lVert \delta \rVert^2\right]",
        r"\hat\beta \in \mathbb{R}^{d \times n}, \quad x < 0",
    ],
)
def test_the_courses_formulas_convert_whole(latex):
    element = mathml(latex, display=True)
    assert ElementTree.fromstring(element).tag.endswith("math")
    assert 'display="block"' in element
    assert "\\" not in element


@pytest.mark.parametrize("latex", [r"\foo{x}", "a & b"])
def test_what_does_not_convert_is_named(latex):
    with pytest.raises(ValueError, match="the formula") as error:
        mathml(latex, display=False)
    assert repr(latex) in str(error.value)


@given(st.text(alphabet=r"abkzW_^{}+-= \lambda\frac", max_size=24))
def test_any_text_becomes_well_formed_mathml_or_a_value_error(latex):
    try:
        element = mathml(latex, display=False)
    except ValueError:
        return
    ElementTree.fromstring(element)


def test_text_cells_keep_their_words_and_convert_every_kind_of_formula():
    html = to_html("Inline $x_1 * y_1 * z$ and\n\n$$\\sum_i i$$\n\n\\begin{align*}a &= b\\end{align*}\n\nprice: `$5`")
    assert html.count("<math") == 3
    assert html.count('display="block"') == 2
    assert "<em>" not in html
    assert "<code>$5</code>" in html


def test_links_between_notebooks_lead_to_their_pages():
    html = to_html("[a](02_editing.ipynb) [b](./02_editing.ipynb#write) [c](https://example.org/x.ipynb)")
    assert 'href="02_editing.html"' in html
    assert 'href="02_editing.html#write"' in html
    assert 'href="https://example.org/x.ipynb"' in html


def test_one_line_stands_without_a_paragraph():
    assert inline_html("say *where*") == "say <em>where</em>"
