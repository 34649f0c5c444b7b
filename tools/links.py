"""Link targets after notebooks and documents have become pages of one folder, and broken links."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import unquote

NOTEBOOK = re.compile(r"^(?:\./)?([0-9]\w*)\.ipynb(#.*)?$")
ELSEWHERE = re.compile(r"^(?:[a-zA-Z][\w+.-]*:|//)")  # another host, a mail address, embedded data
LINK = re.compile(r'<a\b[^>]*\bhref="([^"]*)"')
NAMED = re.compile(r'\sid="([^"]*)"')


def to_page(address: str) -> str:
    """Turn a link between notebooks of the tour into one between their pages; other links are unchanged."""
    return NOTEBOOK.sub(r"\1.html\2", address)


@dataclass(frozen=True)
class Lead:
    """The targets of the links in one source.

    Args:
        source: the notebook or document that contains the links.
        pages: the page of every source that has one, by the source's resolved path.
    """

    source: Path
    pages: Mapping[Path, str]

    def __call__(self, address: str) -> str | None:
        """The address on the site, or None for a file of the repository that has no page.

        A link to a file that does not exist is unchanged, and `dangling` reports it.
        """
        file, mark, fragment = address.partition("#")
        if not file or ELSEWHERE.match(address):
            return address
        target = (self.source.parent / unquote(file)).resolve()
        if target in self.pages:
            return self.pages[target] + mark + fragment
        return None if target.exists() else address


def dangling(pages: Iterable[Path]) -> list[str]:
    """One sentence for each link in these pages whose file or heading does not exist."""
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in pages}
    named = {path: {unescape(name) for name in NAMED.findall(text)} for path, text in texts.items()}
    found = []
    for path, text in texts.items():
        for address in sorted(set(map(unescape, LINK.findall(text)))):
            file, _, fragment = map(unquote, address.partition("#"))
            target = (path.parent / file).resolve() if file else path
            lost = not target.exists() or (fragment and target in named and fragment not in named[target])
            if lost and not ELSEWHERE.match(address):
                found.append(f"{path.name} links to {address}, which is not there: mend the link in its source.")
    return found
