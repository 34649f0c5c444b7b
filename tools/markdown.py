"""Markdown to HTML: formulas become MathML, headings get anchors, links lead to pages of the site."""

import re
from collections import Counter
from collections.abc import Callable
from html import escape

from markupsafe import Markup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from tools.formulas import mathml
from tools.links import to_page


def jupyter_anchor(title: str) -> str:
    """The anchor that JupyterLab gives a heading of a notebook."""
    return title.replace(" ", "-")


def github_anchor(title: str) -> str:
    """The anchor that GitHub gives a heading of a Markdown file."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


class Anchors:
    """Unique anchors for the headings of one page: the second "Notes" becomes "Notes-1"."""

    def __init__(self, name: Callable[[str], str] = jupyter_anchor) -> None:
        self._name, self._given = name, Counter[str]()

    def __call__(self, title: str) -> str:
        anchor = self._name(title)
        self._given[anchor] += 1
        again = self._given[anchor] - 1
        return f"{anchor}-{again}" if again else anchor


class PageRenderer(IPythonRenderer):
    """nbconvert's renderer with offline formulas.

    Args:
        lead: the address of a link on the site; None if the site has no such page, and the link becomes plain text.
        anchors: of the headings; shared by all text cells of a page.
    """

    def __init__(self, lead: Callable[[str], str | None], anchors: Anchors) -> None:
        super().__init__(escape=False)
        self._lead, self._anchors = lead, anchors

    def block_math(self, body: str) -> str:
        """A formula on its own line."""
        return f'<div class="wide">{mathml(body, display=True)}</div>'

    def inline_math(self, body: str) -> str:
        """A formula within a line."""
        return mathml(body, display=False)

    def latex_environment(self, name: str, body: str) -> str:
        r"""A formula that starts with ``\begin{...}`` and has no dollar signs, as MathJax allows."""
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link; a link to a notebook or a document leads to its page."""
        address = self._lead(url)
        return text if address is None else super().link(text, address, title)

    def heading(self, text: str, level: int, **attrs: object) -> str:
        """A heading followed by a mark that links to it."""
        title = str(Markup(text).striptags())
        anchor = escape(self._anchors(title))
        mark = f'<a class="anchor-link" href="#{anchor}" aria-label="Link to: {escape(title)}">#</a>'
        return f'<h{level} id="{anchor}">{text} {mark}</h{level}>\n'


def table(renderer: PageRenderer, text: str) -> str:
    """A table in a separately scrolling frame."""
    return f'<div class="wide"><table>\n{text}</table></div>\n'


def to_html(source: str, lead: Callable[[str], str | None] = to_page, anchors: Anchors | None = None) -> str:
    """HTML of a text cell or document. Raises ``ValueError`` for a formula that does not convert."""
    renderer = PageRenderer(lead, anchors or Anchors())
    markdown = MarkdownWithMath(renderer=renderer)
    renderer.register("table", table)  # replaces the renderer that the table plugin has registered
    return markdown.render(source)


def inline_html(source: str) -> Markup:
    """HTML of one line of Markdown, without a paragraph around it."""
    return Markup(to_html(source).strip().removeprefix("<p>").removesuffix("</p>"))
