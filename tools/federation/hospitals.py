"""The processes of a federation on loopback: the server and a node for each hospital, as their commands start them.

All connections are under TLS, and every SuperNode has a key that the SuperLink knows.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleke_lib.commands.line import show
from fleke_lib.federation import Part
from fleke_lib.federation.flower.processes import free_port
from fleke_lib.federation.flower.progress import Progress
from tools.federation.certificates import certificates
from tools.federation.files import node_files
from tools.federation.processes import HOST, Processes


def said(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


@dataclass
class Hospitals:
    """The processes of one federation, whose files `files.prepare` has written.

    parts: the facts of each hospital. policy: by which they adopt. model: a hub name or a folder.
    python: one that has Flower. port: the SuperLink's. summed: packets stay at home, by the rules in the folder.
    """

    folder: Path
    processes: Processes
    parts: tuple[Part, ...]
    policy: str
    model: str
    python: Path = Path(sys.executable)
    port: int = field(default_factory=free_port)
    summed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    def command(self, name: str) -> list[str]:
        """The words that call a command of the library."""
        return [str(self.python), "-m", "fleke_lib.federation", name]

    def start(self) -> None:
        """Certificates and a node for each hospital; they connect when there is a server."""
        certificates(self.folder)
        for name in self.names:
            self.start_node(name)

    def start_node(self, name: str) -> Path:
        """One hospital's node; returns its log."""
        (part,) = (part for part in self.parts if part.name == name)
        files = [word for key, path in node_files(self.folder, name).items() for word in (f"--{key}", str(path))]
        how = [
            "--per-slot",
            *[str(len(slot)) for slot in part.slots],
            "1",
            "--policy",
            self.policy,
            "--model",
            self.model,
        ]
        how += ["--rules", str(self.folder / "rules.json")] if self.summed else []
        return self.processes.start(name, [*self.command("node"), "--superlink", f"{HOST}:{self.port}", *files, *how])

    def start_server(self, slots: int, patience: float = 600.0, nodes: int | None = None) -> Path:
        """The server; returns its log. With its folder it goes on where it was."""
        files = {"folder": "hub", "group": "group.json", "rules": "rules.json", "root-certificates": "ca.crt"}
        files |= {"certificate": "server.crt", "private-key": "server.key"}
        told = [word for key, file in files.items() for word in (f"--{key}", str(self.folder / file))]
        told += ["--slots", str(slots), "--patience", str(patience), "--port", str(self.port)]
        told += ["--nodes", str(nodes)] if nodes else []
        self.progress.path.unlink(missing_ok=True)
        return self.processes.start("server", [*self.command("server"), *told])

    def withdraw(self, name: str) -> None:
        """Make a hospital withdraw, as its owner does; its node asks when the server runs again."""
        self.processes.call([*self.command("withdraw"), "--node", str(node_files(self.folder, name)["folder"])])

    @property
    def progress(self) -> Progress:
        """What the server's app has written so far."""
        return Progress(self.folder / "hub" / "progress.txt")

    def run(
        self,
        slots: int,
        patience: float,
        seconds: float,
        say: Callable[[str, str], None] = show,
        some: bool = False,
    ) -> Sequence[str]:
        """Start the server, and pass on its lines to its end; returns them.

        Args:
            some: not every hospital needs to have replied to all turns.

        Raises:
            RuntimeError: it does not end in time, or not with 0.
        """
        log, seen, count, kind = self.start_server(slots, patience), [], 0, ""
        process, last = self.processes.running["server"], time.monotonic() + seconds
        while True:
            over = process.poll() is not None
            for kind, text in list(self.progress.read(count)):
                count += 1
                say(kind, text)
                seen += [text] if kind == "line" else []
            if over and (process.returncode == 0 or (some and kind == "end")):
                return seen
            if over or time.monotonic() > last:
                raise RuntimeError(f"the server has not finished:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.3)
