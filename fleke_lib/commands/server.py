"""Run the server of a federation: a SuperLink for the members' nodes, all slots, then their edits.

    server --folder hub --group group.json --rules rules.json --slots 4 --port 8000
           --root-certificates ca.crt --certificate server.crt --private-key server.key

The folder holds the registry and Flower's own database. Called again, with more slots or after a stop, it goes on from
there. If a member has withdrawn, all slots are played again without its packets. The server has no model and no key
that opens a packet. The exit status is 0 if all members have replied to every turn, and else 1.

Under rules of `rules --protection summed` it adds up masked sums instead, and stores nothing: each call makes one total
of all facts that are due by the last slot.
"""

import argparse
import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fleke_lib.commands.line import show
from fleke_lib.federation.flower.bounds import load_rules
from fleke_lib.federation.flower.processes import (
    HERE,
    app,
    connection,
    environment,
    program,
    running,
    superlink,
    wait_for,
)
from fleke_lib.federation.flower.progress import Progress
from fleke_lib.federation.flower.settings import load_group
from fleke_lib.storage.files import user_path

LOOK = 0.3  # seconds between two looks at the progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `server`."""
    files = {"folder": "its memory", "group": "the members' public keys", "rules": "what is admitted"}
    files |= {"root-certificates": "who vouches for the certificate", "certificate": "for this host and 127.0.0.1"}
    for name, about in {**files, "private-key": "of the certificate"}.items():
        parser.add_argument(f"--{name}", type=user_path, required=True, metavar="FILE", help=about)
    parser.add_argument("--slots", type=int, required=True, metavar="N", help="how many slots there are to be")
    parser.add_argument("--nodes", type=int, metavar="N", help="how many to wait for at the beginning (all members)")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to wait for the replies to a turn (600)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1; 0.0.0.0 is all)")
    parser.add_argument("--port", type=int, default=8000, help="the port to listen at (8000)")


def main(arguments: argparse.Namespace) -> int:
    """Run all slots, and say how it goes."""
    folder, (_, keys) = arguments.folder.absolute(), load_group(arguments.group)
    load_rules(arguments.rules)
    if arguments.slots < 1:
        raise ValueError(f"--slots is {arguments.slots}: give the number of slots, from 1.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    home, host = folder / "flower", arguments.host.replace("0.0.0.0", "127.0.0.1")
    connection(home, f"{host}:{arguments.port}", arguments.root_certificates.absolute())
    tls = (arguments.root_certificates, arguments.certificate, arguments.private_key)
    link = superlink(arguments.host, arguments.port, folder / "link.db", *tls)
    with running(link, home, folder / "superlink.pid") as process:
        wait_for(host, arguments.port, process)
        _register(home, keys)
        return _run(arguments, home, len(keys), process)


def _register(home: Path, keys: Mapping[str, str]) -> None:
    """Tell the SuperLink the keys of the members' nodes; it may know some already. All at once, since each is slow."""
    calls = {}
    for name, key in keys.items():
        try:
            public = load_pem_public_key(key.encode()).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        except ValueError:
            raise ValueError(f"the group has no key of {name!r}'s node: write it there with `save_group`.") from None
        path = home / f"{hashlib.sha256(public).hexdigest()}.pub"
        path.write_bytes(public)
        command = [program("flwr"), "supernode", "register", str(path), HERE]
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        calls[name] = subprocess.Popen(command, env=environment(home), **how)
    for name, call in calls.items():
        said, _ = call.communicate()
        if call.returncode and "already in use" not in said:
            raise RuntimeError(f"the key of {name!r} was not registered:\n{said}")


def _run(arguments: argparse.Namespace, home: Path, members: int, link: subprocess.Popen) -> int:
    """Start the app, and pass on its progress to the end."""
    folder = home.parent
    progress, log = Progress(folder / "progress.txt"), folder / "run.log"
    progress.path.unlink(missing_ok=True)
    told = {name: str(getattr(arguments, name).absolute()) for name in ("group", "rules")}
    told |= {"registry": str(folder / "registry.db"), "progress": str(progress.path)}
    told |= {"slots": arguments.slots, "patience": str(arguments.patience)}
    shutil.rmtree(folder / "app", ignore_errors=True)
    where = app(folder / "app", {**told, "nodes": arguments.nodes or members})
    command = [program("flwr"), "run", str(where), HERE, "--stream"]
    with log.open("wb") as file, running(command, home, folder / "run.pid", file) as run:
        for kind, text in _lines(progress, run, link):
            show(kind, text)
            if kind == "end":
                done, of = map(int, text.split())
                return 0 if done == of else 1
            if kind == "failed":
                raise RuntimeError(text)
    raise RuntimeError(f"the run has ended too early:\n{log.read_text(errors='replace')[-3000:]}")


def _lines(progress: Progress, run: subprocess.Popen, link: subprocess.Popen) -> Iterator[tuple[str, str]]:
    """The lines of the progress as they come, until nobody writes any more."""
    seen, over = 0, False
    while True:
        for one in progress.read(seen):
            seen += 1
            yield one
        if over:
            return
        over = run.poll() is not None or link.poll() is not None  # then there is one more look
        time.sleep(LOOK)
