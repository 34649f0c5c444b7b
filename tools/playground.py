"""The playground: a page on which the reader's browser solves the closed form. ``python -m tools.playground``.

The page is one file that loads nothing. Its text is data/playground.md, its vectors are data/playground.json, and its
script and style are in template/playground/. On the site it is a page like the others. The command writes it alone, to
docs/playground.html, which opens in a browser without anything being installed.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from fleke_lib.storage.files import DATA
from tools.links import Lead
from tools.markdown import Anchors, github_anchor, to_html
from tools.pages import TEMPLATES, Around, Page, environment, framed, write_whole
from tools.playground_data import read

CARD = DATA / "playground.md"
ALONE = Path(__file__).parents[1] / "docs" / "playground.html"
PARTS = TEMPLATES / "playground"
SCRIPTS = ("sha256.js", "solve.js", "page.js")


def has_playground(page: Page) -> bool:
    """Whether a document's page is the playground: its card, with the vectors beside it."""
    return page.source.name == CARD.name and page.source.with_suffix(".json").exists()


def playground(page: Page, around: Around, pages: Mapping[Path, str], *, alone: bool = False) -> str:
    """The page: the card's first part, the playground, the rest of the card.

    Args:
        alone: without the site's header, search and links.

    Raises ``ValueError`` for a formula that does not convert, or a file of another format.
    """
    data, anchors, lead = read(page.source.with_suffix(".json")), Anchors(github_anchor), Lead(page.source, pages)
    opening, mark, rest = page.source.read_text(encoding="utf-8").partition("\n## ")
    counts = Counter(fact["client"] for fact in data["facts"])
    clients = [client | {"facts": counts[i]} for i, client in enumerate(data["clients"])]
    app = environment().get_template("playground/app.html.j2").render(clients=clients, layers=len(data["layers"]))
    return framed(
        "playground.html.j2",
        around,
        to_html(opening, lead, anchors) + app + to_html(mark + rest, lead, anchors),
        title=page.title,
        alone=alone,
        play_style=Markup((PARTS / "page.css").read_text(encoding="utf-8")),
        play_script=Markup("\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)),
        play_data=Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")),
    )


def alone() -> str:
    """The page with nothing beside it."""
    title = CARD.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    return playground(Page(CARD, ALONE.name, title), Around(), {}, alone=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page alone, with nothing beside it; the exit status is 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.playground", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=ALONE, help="the HTML file to write")
    target = parser.parse_args(arguments).file
    write_whole(target, alone())
    print(f"playground: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
