"""Flower's processes on loopback: a SuperLink, a SuperNode for each hospital, and the run of the apps.

All connections are under TLS, and every SuperNode has a key that the SuperLink knows.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fleke_lib.federation import Part
from tools.federation.certificates import certificates
from tools.federation.files import app_files, configuration_of
from tools.federation.processes import BIN, HOST, Processes, free_ports, wait_for


def said(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


@dataclass
class Hospitals:
    """The processes of one federation, whose files `files.prepare` has written.

    parts: the facts of each hospital. policy: by which they adopt. model: a hub name or a folder.
    port: the SuperLink's. ports: each SuperNode's own.
    """

    folder: Path
    processes: Processes
    parts: tuple[Part, ...]
    policy: str
    model: str
    port: int = 0
    ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port, *ports = free_ports(1 + len(self.parts))
        self.ports = dict(zip(self.names, ports, strict=True))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    def start(self) -> None:
        """The SuperLink with new certificates, then a registered SuperNode for each hospital."""
        certificates(self.folder)
        self.start_link()
        for name in self.names:
            self.register(name)
            self.start_node(name)

    def start_link(self) -> None:
        """The SuperLink; with its database it goes on after a stop."""
        tls = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key"]
        link = [str(BIN / "flower-superlink"), *tls, "--host", HOST, "--port", str(self.port)]
        link += ["--enable-supernode-auth", "--disable-runtime-dependency-installation", "--database", "link.db"]
        self.processes.start("superlink", link)
        wait_for(self.port, self.processes.running["superlink"])

    def register(self, name: str) -> None:
        """Make a SuperNode's public key known to the SuperLink, at whose address `app_files` points."""
        app_files(self.folder, self.port)
        self.processes.call([str(BIN / "flwr"), "supernode", "register", f"{name}.pub", "here"])

    def start_node(self, name: str) -> None:
        """One SuperNode, told its files by its configuration."""
        (part,) = (part for part in self.parts if part.name == name)
        told = configuration_of(self.folder, name, len(part.slots[0]), self.policy, self.model)
        command = [str(BIN / "flower-supernode"), "--superlink", f"{HOST}:{self.port}"]
        command += ["--root-certificates", "ca.crt", "--auth-supernode-private-key", f"{name}.key"]
        command += ["--host", HOST, "--port", str(self.ports[name]), "--node-config", told]
        self.processes.start(name, command)

    def run(self, slots: int, patience: float, seconds: float, say: Callable[[str], None] = said) -> list[str]:
        """Run the apps, and pass on the progress lines as they come; returns them.

        Raises:
            RuntimeError: the run does not end in time, or fails.
        """
        log = self.start_run(slots, patience)
        process, seen, end = self.processes.running["run"], [], time.monotonic() + seconds
        while True:
            over = process.poll() is not None
            lines = progress(log)
            for line in lines[len(seen) :]:
                say(line)
            seen = lines
            if any("solve: " in line for line in lines):
                return seen
            if over or time.monotonic() > end:
                raise RuntimeError(f"the run has not finished:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.5)

    def start_run(self, slots: int, patience: float) -> Path:
        """Start the apps; returns the log, in which their progress lines come."""
        app_files(self.folder, self.port, slots=slots, nodes=len(self.parts), patience=patience)
        return self.processes.start("run", [str(BIN / "flwr"), "run", "carried", "here", "--stream"])


def progress(log: Path) -> list[str]:
    """The desk's lines in a run's log so far."""
    lines: Iterable[str] = log.read_text(errors="replace").splitlines()
    return [line.partition("fleke: ")[2] for line in lines if "fleke: " in line]
