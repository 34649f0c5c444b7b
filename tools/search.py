"""The search index: every section of every page, in a script file that also works without a server."""

import json
from collections.abc import Iterable
from pathlib import Path

from tools.sections import sections

INDEX = "search-index.js"


def entries(pages: Iterable[Path]) -> list[dict[str, str]]:
    """One entry per section: its address, its page's title, its heading and its text."""
    found = []
    for path in pages:
        parts = sections(path.read_text(encoding="utf-8"))
        found += [
            {
                "address": path.name if part.level == 1 else f"{path.name}#{part.anchor}",
                "page": parts[0].title,
                "heading": part.title,
                "text": part.text,
            }
            for part in parts
        ]
    return found


def script(pages: Iterable[Path]) -> str:
    """The script that passes the entries to the page."""
    text = json.dumps(entries(pages), ensure_ascii=False, separators=(",", ":"))
    return f"window.flekeSearch({text});\n"
