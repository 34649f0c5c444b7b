"""Pages to read without running: executed chapters as Markdown with small pictures, for the repository's own web view.

A page carries the hashes of the cells that it was made from, so `stale` can tell whether it still is the notebook's. It
also carries its outputs between two marks, so a change of the text needs no new run.
"""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import unescape
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

from nbformat import NotebookNode
from PIL import Image, ImageColor

from fleke_lib.figures.style import CYCLE
from tools.declared import number_of, read_notebook
from tools.executed import cell_hashes, code_hash, own_cells
from tools.links import ELSEWHERE
from tools.markdown import github_anchor
from tools.outputs import readable_outputs

COLOURS = 64  # of a picture
KEPT = [ImageColor.getrgb(colour) for colour in (*CYCLE, "white")]
BEGIN, END = "<!-- output -->", "<!-- end of output -->"
MARK = "<!-- made by make publish"  # every page begins with it
HEAD = re.compile(MARK + r" from (\S+): edit nothing here\nscale (\w+)\ncode (\w+)\ncells ([\w ]*)\n-->")
OUTPUT = re.compile(f"^{BEGIN}\n(.*?)^{END}$", re.MULTILINE | re.DOTALL)
CODE = r"^(?P<fence>`{3,}).*?^(?P=fence)$|(?P<tick>`+)[^`].*?(?P=tick)"
FORMULA = re.compile(
    CODE + r"|(?<!\\)\$\$(?P<block>.+?)(?<!\\)\$\$|(?<![\\$])\$(?P<inline>[^$]+?)(?<!\\)\$"
    r"|(?P<environment>\\begin\{(?P<name>\w+\*?)\}.*?\\end\{(?P=name)\})",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(CODE + r"|\]\((?P<address>[^)\s]+)\)", re.MULTILINE | re.DOTALL)
IMAGE = re.compile(r"<img\b[^>]*>")
ALT = re.compile(r"""\balt=(?:"([^"]*)"|'([^']*)')""")
EMBEDDED = re.compile(r'src="data:image/png;base64,([^"]+)"')
CAPTION = re.compile(r"<figcaption>(.*?)</figcaption>", re.DOTALL)
NAMED = re.compile(r"\bPicture\(name='([a-z0-9-]+)'")


@dataclass
class Reading:
    """One chapter as Markdown, and the pictures that it shows.

    source: the notebook. folder: where the page goes.
    pages: the page of every chapter, by the notebook's resolved path.
    """

    source: Path
    folder: Path
    pages: Mapping[Path, str]
    pictures: dict[str, bytes] = field(default_factory=dict)

    def page(self, notebook: NotebookNode, scale: str, outputs: list[str], around: str) -> str:
        """The whole page; `outputs` has one piece for each code cell, and `around` is a line of links."""
        parts, left = [head(self.source, notebook, scale), around], iter(outputs)
        for cell in own_cells(notebook):
            if cell.cell_type == "markdown":
                parts.append(self.text(cell.source))
            elif cell.cell_type == "code":
                parts.append(f"{fenced(cell.source, 'python')}\n\n{BEGIN}\n{next(left)}{END}")
        return "\n\n".join([*parts, around]) + "\n"

    def outputs(self, notebook: NotebookNode) -> list[str]:
        """The outputs of each code cell of an executed notebook, as Markdown; fills `pictures`."""
        cells = [cell for cell in own_cells(readable_outputs(notebook)) if cell.cell_type == "code"]
        return [
            "".join(f"\n{piece}\n\n" for output in cell.outputs if (piece := self._output(output))) for cell in cells
        ]

    def text(self, source: str) -> str:
        """A text cell with formulas and links as the repository's web view needs them."""
        return LINK.sub(self._link, FORMULA.sub(formula, source)).strip()

    def _output(self, output: NotebookNode) -> str:
        if output.output_type == "stream":
            return fenced(output.text, "text") if output.text.strip() else ""
        if output.output_type == "error":
            return fenced(f"{output.ename}: {output.evalue}", "text")
        data = output.data
        if "text/html" in data:
            return self._html(data["text/html"], data.get("text/plain", ""))
        if "image/png" in data:
            return self._picture(data["image/png"], "A picture of this cell.", "")
        if "text/markdown" in data:
            return self.text(data["text/markdown"])
        return fenced(data.get("text/plain", ""), "text")

    def _html(self, html: str, plain: str) -> str:
        image = IMAGE.search(html)
        if image and (source := EMBEDDED.search(image[0])):
            alt, caption, name = ALT.search(image[0]), CAPTION.search(html), NAMED.search(plain)
            words = unescape(alt[1] or alt[2] or "") if alt else ""
            shown = self._picture(source[1], words, name[1] if name else "")
            return f"{shown}\n\n*{plainly(unescape(caption[1]))}*" if caption else shown
        # A blank line would end the piece of HTML, and an indented line after it would become code.
        return "\n".join(line.strip() for line in html.splitlines() if line.strip())

    def _picture(self, encoded: str, alt: str, name: str) -> str:
        name = name or f"{number_of(self.source)}-picture-{len(self.pictures) + 1}"
        self.pictures[f"{name}.png"] = small(base64.b64decode(encoded))
        return f"![{plainly(alt)}](figures/{name}.png)"

    def _link(self, match: re.Match[str]) -> str:
        address = match["address"]
        if not address or ELSEWHERE.match(address):
            return match[0]
        file, mark, fragment = address.partition("#")
        target = (self.source.parent / unquote(file)).resolve() if file else self.source.resolve()
        if target in self.pages:
            page = self.pages[target] if file else ""
            return f"]({page}{mark}{github_anchor(unquote(fragment))})"
        return f"]({os.path.relpath(target, self.folder.resolve())}{mark}{fragment})"


def head(source: Path, notebook: NotebookNode, scale: str) -> str:
    """The comment at the top of a page: what it was made from."""
    place = f"{source.parent.name}/{source.name}"
    hashes = " ".join(cell_hashes(notebook))
    return f"{MARK} from {place}: edit nothing here\nscale {scale}\ncode {code_hash(notebook)}\ncells {hashes}\n-->"


def kept_outputs(page: Path, notebook: NotebookNode, scale: str) -> list[str] | None:
    """The outputs that a page already has; None if its code cells or its scale are others."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    found = HEAD.search(text)
    if not found or (found[2], found[3]) != (scale, code_hash(notebook)):
        return None
    return OUTPUT.findall(text)


def stale(page: Path, source: Path, scale: str = "lesson") -> str | None:
    """The sentence that says why a page is not of its notebook as it is now; None if it is."""
    place = f"{page.parent.name}/{page.name}"
    found = HEAD.search(page.read_text(encoding="utf-8")) if page.exists() else None
    if not found:
        return f"{place} is not there: make publish writes it from {source.name}."
    if found[2] != scale:
        return f"{place} is of a run at {found[2]} scale: write it with FLEKE_SCALE={scale} make publish."
    then, now = found[4].split(), cell_hashes(read_notebook(source))
    changed = [i for i, pair in enumerate(zip(then, now, strict=False), start=1) if pair[0] != pair[1]]
    if changed:
        return f"{place} is stale: cell {changed[0]} of {source.name} has changed since, so call make publish."
    if len(then) != len(now):
        return f"{place} is stale: {source.name} has {len(now)} cells and had {len(then)}, so call make publish."
    return None


def formula(match: re.Match[str]) -> str:
    """A formula in the form that neither GitHub's nor GitLab's Markdown takes apart; code is unchanged."""
    if body := match["block"] or match["environment"]:
        return f"\n\n```math\n{body.strip()}\n```\n\n"
    if match["inline"]:
        return f"$`{' '.join(match['inline'].split())}`$"
    return match[0]


def plainly(text: str) -> str:
    """Text on one line that Markdown takes as it is."""
    return re.sub(r"([\\`*_<\[\]$|])", r"\\\1", " ".join(text.split()))


def fenced(text: str, language: str) -> str:
    """Text as a block of code, with a fence that does not occur in it."""
    ticks = max([2, *map(len, re.findall(r"^`+", text, re.MULTILINE))]) + 1
    body = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return f"{'`' * ticks}{language}\n{body}\n{'`' * ticks}"


def small(png: bytes) -> bytes:
    """A picture with few colours, which the web view shows like the whole one; the same for the same picture.

    The figures' own colours stay as they are. They cover few pixels, so a palette of the most frequent colours alone
    would merge two of them, and with them two lines of a figure.
    """
    image, shrunk, palette = Image.open(BytesIO(png)).convert("RGB"), BytesIO(), Image.new("P", (1, 1))
    frequent = image.quantize(COLOURS - len(KEPT), dither=Image.Dither.NONE).getpalette()[: 3 * (COLOURS - len(KEPT))]
    palette.putpalette([channel for colour in KEPT for channel in colour] + frequent)
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(shrunk, "png", optimize=True)
    return shrunk.getvalue()
