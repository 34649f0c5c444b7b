"""The federation of chapter 09, in steps: live where Flower is installed, and else as it was recorded.

``python -m tools.federation.story`` tells it once more and writes the record.
"""

import argparse
import atexit
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from fleke_lib.commands.line import show
from fleke_lib.edit.moments import Moments, second_moments
from fleke_lib.federation import Part, Rules
from fleke_lib.federation.flower.bounds import save_rules
from fleke_lib.federation.flower.node import leave
from fleke_lib.federation.flower.turns import Turn, TurnReply
from fleke_lib.federation.packets.messages import cut_apart
from fleke_lib.model import shipped
from fleke_lib.model.language_model import LanguageModel, load_model
from fleke_lib.storage.files import DATA, write_json
from fleke_lib.unlearn.edits import withdraw
from tools.federation.comparison import edits_of, equal, one_thread
from tools.federation.files import node_files, prepare, shares
from tools.federation.hospitals import Hospitals
from tools.federation.processes import ROOT, Processes, environment
from tools.federation.ways import Packets

RECORD = DATA / "real_machines.json"
PYTHON = ROOT / ".venv-flower" / "bin" / "python"  # where `make federation` puts Flower
WAY = Packets("everyone")
STEPS = ("start", "run", "crossed", "texts found", "run", "equal")
Actions = Mapping[str, Callable[[], None]]


@dataclass
class Story:
    """Some hospitals, slots and facts; every step returns what was seen, as JSON has it.

    steps: what was seen so far, or what was recorded and was not told yet.
    site: the processes; None if a record is told.
    """

    parts: tuple[Part, ...]
    steps: list[list[Any]] = field(default_factory=list, repr=False)
    site: Hospitals | None = field(default=None, repr=False)

    @classmethod
    def begin(cls, live: bool, hospitals: int = 3, slots: int = 3, model: str = shipped.NAME) -> Self:
        """A story with real processes, if it is wanted and Flower is here; else the record."""
        parts = shares(hospitals, 1, slots, overlap=0.0)
        if not live or not PYTHON.exists():
            return cls(parts, json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else [])
        folder = Path(tempfile.mkdtemp(prefix="fleke-story-"))
        story = cls(parts, site=Hospitals(folder, Processes(folder, environment()), parts, WAY.policy, model, PYTHON))
        atexit.register(story.end)  # a page that stops in the middle leaves no process behind
        return story

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    def start(self, lm: LanguageModel) -> dict[str, list[str]]:
        """Write the hospitals' files and start their nodes; returns which files each node is given."""

        def live():
            save_rules(Rules.of(lm), self.site.folder / "rules.json")
            self._secret = prepare(self.site.folder, self.parts)
            self.site.start()
            return {name: sorted(path.name for path in node_files(Path(), name).values()) for name in self.names}

        return self._told("start", live)

    def run(self, actions: Actions, patience: float = 300.0) -> list[str]:
        """Run the server. Each action is done when a line begins as its name says; returns all lines."""

        def live():
            todo = dict(actions)

            def seen(kind: str, text: str) -> None:
                show(kind, text)
                for beginning in [name for name in todo if kind == "line" and text.startswith(name)]:
                    todo.pop(beginning)()

            slots = max(len(part.slots) for part in self.parts)
            return [*self.site.run(slots, patience, 1500.0, seen, some=True)]

        lines = self._told("run", live) or []
        if self.site is None:
            print("\n".join(lines))
        return lines

    def kill(self, name: str) -> None:
        """Kill a hospital's node and all of its children at once."""
        self.site.processes.kill(name)

    def revive(self, name: str) -> None:
        """Start a hospital's node again, with its folder."""
        self.site.start_node(name)

    def withdraw(self, name: str) -> None:
        """Make a hospital withdraw: its node asks the server in its next turn."""
        if self.site:
            leave(node_files(self.site.folder, name)["folder"])

    def crossed(self, name: str) -> list[dict[str, Any]]:
        """The turns that a hospital got and its replies: what the server said, and kinds and bytes of the calls."""
        return self._told("crossed", lambda: [_row(*turn) for turn in self._turns(name)])

    def texts_found(self) -> list[str]:
        """The subjects and targets of own facts that stand in anything that a hospital has sent or got."""

        def live():
            crossed = b"".join(data + reply for name in self.names for _, data, reply in self._turns(name))
            words = {word for part in self.parts for fact in part.facts for word in (fact.subject, fact.target_new)}
            return sorted(word for word in words if len(word) > 4 and word.encode() in crossed)

        return self._told("texts found", live)

    def equal(self, lm: LanguageModel, moments: Moments, leaver: str) -> dict[str, list[str]]:
        """The hospitals with the weights of one process in which the leaver was never there, bit for bit."""

        @one_thread()
        def live():
            run = WAY.in_one_process(self.site.folder, lm, self.parts, self._secret)
            never = WAY.edits(withdraw(run, client=leaver), moments)
            return {"stayed": [*never], "equal": equal(edits_of(self.site.folder, [*never]), never)}

        return self._told("equal", live)

    def end(self, record: Path | None = None) -> None:
        """Stop all processes and delete the folder; keep what was seen, if a file is given for it."""
        if self.site is None:
            return
        self.site.processes.stop()
        shutil.rmtree(self.site.folder, ignore_errors=True)
        if record:
            write_json(record, self.steps)

    def _told(self, what: str, live: Callable[[], Any]) -> Any:
        """What is seen now, or the next thing in the record; None if there is no record."""
        if self.site is None and not self.steps:
            return None
        if self.site is None:
            name, seen = self.steps.pop(0)
            if name != what:
                raise ValueError(f"the record goes on with {name!r} and not with {what!r}: run the page from its top.")
            return seen
        seen = live()
        self.steps.append([what, seen])
        return seen

    def _turns(self, name: str) -> Iterable[list[bytes]]:
        folder = node_files(self.site.folder, name)["folder"]
        return [cut_apart(path.read_bytes()) for path in sorted(folder.glob("*.turn"))]


def _row(_: bytes, data: bytes, reply: bytes) -> dict[str, Any]:
    turn, made = Turn.read(data), TurnReply.read(reply)
    calls: dict[str, int] = {}
    for kind, body in made.calls:
        calls[kind] = calls.get(kind, 0) + len(body)
    return {"slot": turn.slot, "turn": turn.what, "bytes to the node": len(data), "bytes back": len(reply), **calls}


def main() -> int:
    """Tell the story as chapter 09 does, and write the record; 1 if Flower is not installed."""
    parser = argparse.ArgumentParser("python -m tools.federation.story", description=__doc__)
    parser.add_argument("--model", default=shipped.NAME, help=f"a hub name or a folder ({shipped.NAME})")
    model = parser.parse_args().model
    lm, story = load_model(model), Story.begin(live=True, model=model)
    if story.site is None:
        print("Flower is not installed: call `make federation` first.", file=sys.stderr)
        return 1
    try:
        story.start(lm)
        story.run(
            {
                "slot 0, retrieve": lambda: story.kill("hospital-1"),
                "slot 1, edit": lambda: story.revive("hospital-1"),
            }
        )
        story.crossed("hospital-0"), story.texts_found()
        story.withdraw("hospital-2")
        story.run({})
        print(story.equal(lm, second_moments(lm), leaver="hospital-2"))
    finally:
        story.end(RECORD if len(story.steps) == len(STEPS) else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
