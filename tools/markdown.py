"""Markdown to HTML: formulas become MathML, headings can be linked to, links stay within the site."""

import re
from collections import Counter
from collections.abc import Callable
from html import escape

from markupsafe import Markup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from tools.formulas import mathml
from tools.links import to_page


def jupyter_anchor(title: str) -> str:
    """The name that JupyterLab gives a heading of a notebook."""
    return title.replace(" ", "-")


def github_anchor(title: str) -> str:
    """The name that GitHub gives a heading of a Markdown file."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


class Anchors:
    """Names of the headings of one page, each given once: the second "Notes" becomes "Notes-1"."""

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
        lead: where a link leads on the site; None when the site has no such page, and the text stands without a link.
        anchors: names the headings; shared by all text cells of a page.
    """

    def __init__(self, lead: Callable[[str], str | None], anchors: Anchors) -> None:
        super().__init__(escape=False)
        self._lead, self._anchors = lead, anchors

    def block_math(self, body: str) -> str:
        """A formula of its own line."""
        return f'<div class="wide">{mathml(body, display=True)}</div>'

    def inline_math(self, body: str) -> str:
        """A formula within a line."""
        return mathml(body, display=False)

    def latex_environment(self, name: str, body: str) -> str:
        r"""A bare ``\begin{...}``, as MathJax takes it."""
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link; one to a notebook or to a document leads to its page."""
        address = self._lead(url)
        return text if address is None else super().link(text, address, title)

    def heading(self, text: str, level: int, **attrs: object) -> str:
        """A heading with a mark behind it that links to it."""
        title = str(Markup(text).striptags())
        anchor = escape(self._anchors(title))
        mark = f'<a class="anchor-link" href="#{anchor}" aria-label="Link to: {escape(title)}">#</a>'
        return f'<h{level} id="{anchor}">{text} {mark}</h{level}>\n'


def table(renderer: PageRenderer, text: str) -> str:
    """A table in a frame that scrolls by itself."""
    return f'<div class="wide"><table>\n{text}</table></div>\n'


def to_html(source: str, lead: Callable[[str], str | None] = to_page, anchors: Anchors | None = None) -> str:
    """HTML of a text cell or a document. Raises ``ValueError`` for a formula that does not convert."""
    renderer = PageRenderer(lead, anchors or Anchors())
    markdown = MarkdownWithMath(renderer=renderer)
    renderer.register("table", table)  # after the plugin that makes tables has registered its own
    return markdown.render(source)


def inline_html(source: str) -> Markup:
    """HTML of one line of such text, without a paragraph around it."""
    return Markup(to_html(source).strip().removeprefix("<p>").removesuffix("</p>"))
