"""Many clients upload at once over HTTP: ``.venv-flower/bin/python -m benchmarks.load``, where Flower is installed.

The server is real: a SuperLink under TLS that authenticates every client, the app, the desk and the file of sealed
packets. The clients are simulated, as threads of one process: each has keys of its own and speaks the protocol of
SuperNodes, and replies at once to each turn with sealed packets of the default model's size whose content is noise. A
soak is a longer run: `--seconds 600`. Nothing is lost if the file has every packet that was acknowledged, once.
"""

import argparse
import contextlib
import hashlib
import os
import secrets
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fleke_lib.federation.flower.bounds import save_rules
from fleke_lib.federation.flower.processes import (
    HERE,
    app,
    connection,
    environment,
    free_port,
    program,
    superlink,
    wait_for,
)
from fleke_lib.federation.flower.settings import save_group
from fleke_lib.federation.flower.turns import Turn, TurnReply
from fleke_lib.federation.packets.messages import ID, joined
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.sealing import Draws, Group, Identity
from fleke_lib.federation.sealing.epochs import WRAPPED
from fleke_lib.federation.sealing.head import Head
from fleke_lib.federation.sealing.sealed import NONCE, TAG, Card, Sealed
from tools.federation.certificates import certificates, node_key
from tools.federation.processes import HOST, ROOT, Processes

RULES = Rules("0" * 64, (4, 6, 8, 10, 12, 14), 576, 1536)
BODY = 40_000  # bytes of a packet
LOOK = 3.0  # seconds between two looks for a turn, as a SuperNode waits
RECORD, BYTES = "fleke", "bytes"


def upload(identity: Identity, slot: int, body: int) -> tuple[bytes, str]:
    """A `put` message with a sealed packet that holds noise, which no blind server can tell, and its id."""
    noise = secrets.token_bytes(NONCE + body + TAG)
    head = Head(RULES.fingerprint, identity.name, slot, 0, secrets.token_hex(32), secrets.token_hex(32))
    offer = secrets.token_bytes(NONCE + ID + 4 * RULES.d_model + TAG)
    unsigned = Card(head, offer, hashlib.sha256(noise).digest(), b"")
    sealed = Sealed(Card(head, offer, unsigned.body_hash, identity.signing.sign(unsigned.signed)), noise)
    return joined([sealed.data, secrets.token_bytes(WRAPPED)]), sealed.id


@dataclass
class Simulated:
    """One client: what it has sent, what was acknowledged, and the seconds of each upload."""

    identity: Identity
    key: Path
    each: int
    sent: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    waiting: tuple[int, tuple[str, ...]] = (0, ())

    def reply(self, data: bytes) -> bytes:
        """The reply to a turn; in a turn `edit` it has packets."""
        turn, (number, ids) = Turn.read(data), self.waiting
        if turn.answered == number and ids:
            for id, answer in zip(ids, turn.answers, strict=True):
                self.refused.append(answer.refused) if answer.refused else self.acknowledged.append(answer.data.hex())
                assert answer.refused or answer.data.hex() == id
        made = [upload(self.identity, turn.slot, BODY) for _ in range(self.each if turn.what == "edit" else 0)]
        self.waiting = turn.number, tuple(id for _, id in made)
        self.sent += self.waiting[1]
        return TurnReply(turn.session, turn.number, tuple(("put", message) for message, _ in made), ()).data

    def run(self, address: str, authority: bytes, over: threading.Event) -> None:
        """Pull turns and push replies, as a SuperNode does, until it is over."""
        from flwr.app import ConfigRecord, Message, RecordDict
        from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree as nodes
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
        from flwr.supernode.fleet_http_connection import http_request_response

        private = load_ssh_private_key(self.key.read_bytes(), None)
        with http_request_response(address, False, authority, (private, private.public_key())) as line:
            _, receive, send, _, _, pull, push, confirm, *_ = line
            while not over.is_set():
                if (got := receive()) is None:
                    over.wait(LOOK)
                    continue
                message, tree = got
                run = message.metadata.run_id
                contents = pull_objects([one.object_id for one in nodes(tree)], lambda id, run=run: pull(run, id))
                confirm(run, message.metadata.message_id)
                content = inflate_object_from_contents(message.metadata.message_id, contents).content
                data = self.reply(content.config_records[RECORD][BYTES])
                answer = Message(RecordDict({RECORD: ConfigRecord({BYTES: data})}), reply_to=message)
                answer.metadata.__dict__["_message_id"] = answer.object_id
                begin = time.monotonic()
                missing, session = send(answer, get_object_tree(answer), 0.0)
                for id, one in get_all_nested_objects(answer).items():
                    if id in missing:
                        push(run, session, id, one.deflate())
                if self.waiting[1]:
                    self.seconds.append(time.monotonic() - begin)


def federation(folder: Path, number: int, each: int) -> list[Simulated]:
    """The server's files, and the clients, whose keys are registered when the SuperLink runs."""
    clients = [
        Simulated(Identity.draw(f"client-{i}", Draws()), folder / f"client-{i}.key", each) for i in range(number)
    ]
    keys = {client.identity.name: node_key(client.key) for client in clients}
    group = Group({client.identity.name: client.identity.member for client in clients}, dealer="client-0")
    save_group(group, keys, folder / "group.json"), save_rules(RULES, folder / "rules.json")
    certificates(folder)
    return clients


def start_link(folder: Path, processes: Processes, port: int) -> None:
    """The SuperLink, and where the command `flwr` finds it."""
    files = (folder / name for name in ("ca.crt", "server.crt", "server.key"))
    processes.start("superlink", superlink(HOST, port, folder / "link.db", *files))
    wait_for(HOST, port, processes.running["superlink"])
    connection(folder / "flower", f"{HOST}:{port}", folder / "ca.crt")


def start_run(folder: Path, processes: Processes) -> None:
    """The app with the desk and the registry, for more slots than there is time."""
    told = {name: str(folder / f"{name}.json") for name in ("group", "rules")}
    told |= {"registry": str(folder / "registry.db"), "progress": str(folder / "progress.txt")}
    where = app(folder / "app", {**told, "slots": 10**6, "nodes": 1, "patience": "60"})
    processes.start("run", [program("flwr"), "run", str(where), HERE, "--stream"])


def register(folder: Path, clients: Sequence[Simulated]) -> None:
    """What `flwr supernode register` does, for all clients in one process."""
    os.environ |= environment(folder / "flower")
    from flwr.cli.flower_config import read_superlink_connection
    from flwr.cli.utils import init_http_client_from_connection
    from flwr.proto.control_pb2 import RegisterNodeRequest
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    with contextlib.closing(init_http_client_from_connection(read_superlink_connection(HERE))) as control:
        for client in clients:
            public = load_ssh_private_key(client.key.read_bytes(), None).public_key()
            control.RegisterNode(request=RegisterNodeRequest(public_key=public_key_to_bytes(public)))


def memory(process: psutil.Process) -> int:
    """Bytes in use by a process and all its children."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total


def watched(process: psutil.Process, seconds: float, done: Callable[[], int]) -> list[tuple[float, int, int]]:
    """Second by second: the time, bytes in use, and what is done."""
    begin, found = time.monotonic(), []
    while (now := time.monotonic() - begin) < seconds:
        found.append((now, memory(process), done()))
        time.sleep(1.0)
    return found


def report(folder: Path, clients: Sequence[Simulated], seen: Sequence[tuple[float, int, int]], size: int) -> bool:
    """Print what was measured; returns whether nothing was lost and nothing is there twice."""
    with contextlib.closing(sqlite3.connect(folder / "registry.db")) as db:
        stored = [id for (id,) in db.execute("SELECT id FROM packets")]
    acknowledged = [id for client in clients for id in client.acknowledged]
    latency = sorted(second for client in clients for second in client.seconds)
    (start, _, before), (end, _, after) = seen[0], seen[-1]
    middle, last = (statistics.median(one[1] for one in part) for part in (seen[len(seen) // 3 : -len(seen) // 3],
                                                                           seen[-len(seen) // 3 :]))  # fmt: skip
    lost, twice = set(acknowledged) - set(stored), len(stored) - len(set(stored))
    refused = [reason for client in clients for reason in client.refused]
    print(f"{len(clients)} clients, {end - start:.0f} s, {len(stored)} packets of {BODY} bytes stored")
    print(
        f"{(after - before) / (end - start):.1f} packets a second, {len(latency) / (end - start):.1f} uploads a second"
    )
    print(f"an upload takes {quantile(latency, 0.5):.2f} s (p50) and {quantile(latency, 0.99):.2f} s (p99)")
    print(f"{len(acknowledged)} acknowledged, {len(lost)} of them lost, {twice} twice, {len(refused)} refused")
    print(
        f"memory of the server's processes: {middle / 1e6:.0f} MB in the middle third, {last / 1e6:.0f} MB in the last"
    )
    print(f"files: {size / 1e6:.0f} MB of Flower, {(folder / 'registry.db').stat().st_size / 1e6:.0f} MB of packets")
    return not lost and not twice and not refused


def quantile(sorted_: Sequence[float], part: float) -> float:
    return sorted_[min(len(sorted_) - 1, int(part * len(sorted_)))] if sorted_ else float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 if nothing was lost, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=50, help="how many (50)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they upload (60; a soak: 600)")
    parser.add_argument("--packets", type=int, default=4, help="packets in an upload (4)")
    given = parser.parse_args(arguments)
    with TemporaryDirectory() as name:
        folder, over = Path(name), threading.Event()
        clients, port = federation(folder, given.clients, given.packets), free_port()
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        processes = Processes(folder, environment(folder / "flower") | own)
        try:
            start_link(folder, processes, port)
            register(folder, clients)
            told = (f"{HOST}:{port}", (folder / "ca.crt").read_bytes(), over)
            threads = [threading.Thread(target=client.run, args=told, daemon=True) for client in clients]
            for thread in threads:
                thread.start()
            start_run(folder, processes)
            begin = time.monotonic()
            while not any(client.sent for client in clients):
                if time.monotonic() > begin + 300:
                    raise RuntimeError(f"no turn has come: see {(folder / 'run.log').read_text()[-2000:]}")
                time.sleep(0.2)
            process = psutil.Process(processes.running["superlink"].pid)
            seen = watched(process, given.seconds, lambda: sum(len(client.acknowledged) for client in clients))
            if processes.running["run"].poll() is not None:
                raise RuntimeError(f"the server's run has ended: see {(folder / 'run.log').read_text()[-2000:]}")
            over.set()
            for thread in threads:
                thread.join(30)
            size = sum(file.stat().st_size for file in folder.glob("link.db*"))
        finally:
            over.set()
            processes.stop()
        return 0 if report(folder, clients, seen, size) else 1


if __name__ == "__main__":
    sys.exit(main())
