"""Called by ``make federation``: hospitals as real processes on this machine, and the same federation in one process.

One SuperLink and a SuperNode for each hospital run on loopback, under TLS with certificates that are made for this run,
and every SuperNode has a key of its own. The weights of every hospital are compared, bit for bit, with those of
`run_fedit` in one process. Everything that was started is stopped at the end, also after Ctrl-C.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import psutil
import torch
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fleke_lib import load_facts, load_model
from fleke_lib.edit import Edit
from fleke_lib.edit.moments import second_moments
from fleke_lib.federation import ClientConfig, Part, Rules, Sealing, StoredProvider, run_fedit, weights
from fleke_lib.federation.flower.bounds import save_rules
from fleke_lib.federation.flower.settings import save_group, save_identity
from fleke_lib.federation.retrieval.named import policy_named
from fleke_lib.federation.sealing import Draws, Group, Identity
from fleke_lib.storage.files import DATA

ROOT, HOST = Path(__file__).parents[1], "127.0.0.1"
BIN = Path(sys.executable).parent
POLICY = "everyone"
APP = """[project]
name = "carried"
version = "1.0.0"
description = "A federation of edits"
license = "MIT"
dependencies = []

[tool.flwr.app]
publisher = "fleke"

[tool.flwr.app.components]
serverapp = "carried:server_app"
clientapp = "carried:client_app"

[tool.flwr.app.config]
"""
MODULE = """from fleke_lib.federation.flower import apps

client_app = apps.client_app
server_app = apps.server_app
"""


class Processes:
    """What was started, each with a log of its own; `stop` ends all of it, children included."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, command: Sequence[str]) -> Path:
        """Start a process in a process group of its own; returns its log."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            self.running[name] = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=file, stderr=file, start_new_session=True
            )
        return log

    def call(self, command: Sequence[str]) -> str:
        """Run a command to its end. Raises RuntimeError with its output if it fails."""
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:3])} has failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def kill(self, name: str) -> None:
        """Kill a process and its children at once, as a machine that loses its power."""
        self._signal(name, signal.SIGKILL)
        self.running.pop(name).wait()

    def stop(self) -> None:
        """End everything: politely first, and after ten seconds at once. Flower puts some children in own groups."""
        children = []
        for name, process in self.running.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                children += psutil.Process(process.pid).children(recursive=True)
            self._signal(name, signal.SIGTERM)
        end = time.monotonic() + 10
        for name, process in self.running.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            self._signal(name, signal.SIGKILL)  # the group, whose leader may be gone before its children
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()  # by psutil, which checks that the number still is this process
        self.running = {}

    def _signal(self, name: str, kind: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running[name].pid, kind)


def free_ports(number: int) -> list[int]:
    """So many ports that nobody uses now."""
    held = [socket.create_server((HOST, 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def private(key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    """A private key in PEM, without a passphrase."""
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def certificates(folder: Path) -> None:
    """A certificate authority and a server's certificate for loopback, valid for a day: ca.crt, server.crt and .key."""
    now = datetime.now(UTC)

    def made(name: str, key, issuer: str, signer, authority: bool) -> x509.Certificate:
        names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (name, issuer)]
        builder = x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(signed_by, critical=False)
        places = [x509.IPAddress(ip_address(HOST)), x509.DNSName("localhost")]
        usage = x509.KeyUsage(True, False, False, False, False, authority, authority, False, False)
        builder = builder.add_extension(usage, critical=True)
        return builder.add_extension(x509.SubjectAlternativeName(places), critical=False).sign(signer, SHA256())

    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = made("fleke", authority, "fleke", authority, True)
    leaf = made("superlink", server, "fleke", authority, False)
    (folder / "ca.crt").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "server.crt").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(private(server, PrivateFormat.PKCS8))


def node_key(path: Path) -> str:
    """A SuperNode's key pair; returns the public key in PEM, which is also written beside the private one."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.touch(mode=0o600)
    path.write_bytes(private(key, PrivateFormat.OpenSSH))
    public = key.public_key()
    path.with_suffix(".pub").write_bytes(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def prepare(folder: Path, hospitals: int, per_slot: int, slots: int):
    """All files of the federation; returns the parts and the secret."""
    names, each = [f"hospital-{i}" for i in range(hospitals)], per_slot * slots
    raw = json.loads((DATA / "atlas.json").read_text(encoding="utf-8"))
    facts = load_facts("atlas")
    if len(facts) != len(raw) or len(facts) < hospitals * each:
        raise ValueError(f"the atlas has {len(facts)} facts: give fewer hospitals, slots or facts a slot.")
    parts, identities, keys = [], {}, {}
    for i, name in enumerate(names):
        mine = slice(i * each, (i + 1) * each)
        (folder / f"{name}.json").write_text(json.dumps(raw[mine]), encoding="utf-8")
        cut = tuple(facts[mine][j : j + per_slot] for j in range(0, each, per_slot))
        parts.append(Part(name, tuple(tuple(slot) for slot in cut), ()))
        identities[name] = Identity.draw(name, Draws())
        save_identity(identities[name], folder / f"{name}.identity")
        keys[name] = node_key(folder / f"{name}.key")
    group = Group({name: one.member for name, one in identities.items()}, dealer=names[0])
    save_group(group, keys, folder / "group.json")
    secret = secrets.token_bytes(32)
    (folder / "secret.bin").write_bytes(secret)
    return parts, secret


def environment(folder: Path) -> dict[str, str]:
    """What all processes run with: no telemetry, no look for updates, one thread, nothing from a network."""
    own = {"FLWR_HOME": str(folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    own |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
    own |= {"PYTHONPATH": str(ROOT), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own, "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}


def start(folder: Path, processes: Processes, parts, slots: int, patience: float) -> None:
    """The SuperLink, then a registered SuperNode for each hospital."""
    port, *ports = free_ports(1 + len(parts))
    certificates(folder)
    told = {"registry": folder / "registry.db", "group": folder / "group.json", "rules": folder / "rules.json"}
    config = "".join(f'{name} = "{value}"\n' for name, value in told.items())
    config += f'slots = {slots}\nnodes = {len(parts)}\npatience = "{patience}"\n'
    (folder / "carried").mkdir()
    (folder / "carried" / "pyproject.toml").write_text(APP + config, encoding="utf-8")
    (folder / "carried" / "carried.py").write_text(MODULE, encoding="utf-8")
    (folder / "flwr").mkdir()
    (folder / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{HOST}:{port}"\n'
        f'root-certificates = "{folder / "ca.crt"}"\n',
        encoding="utf-8",
    )
    tls = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key"]
    link = [str(BIN / "flower-superlink"), *tls, "--host", HOST, "--port", str(port), "--enable-supernode-auth"]
    processes.start("superlink", [*link, "--disable-runtime-dependency-installation", "--database", "link.db"])
    wait_for(port, processes.running["superlink"])
    for part, own in zip(parts, ports, strict=True):
        processes.call([str(BIN / "flwr"), "supernode", "register", f"{part.name}.pub", "here"])
        start_node(folder, processes, part.name, len(part.slots[0]), port, own)


def start_node(folder: Path, processes: Processes, name: str, per_slot: int, port: int, own: int) -> None:
    """One SuperNode, told its files by its configuration."""
    files = {"folder": f"{name}.memory", "facts": f"{name}.json", "identity": f"{name}.identity"}
    files |= {"group": "group.json", "secret": "secret.bin"}
    told = " ".join(f'{key}="{folder / file}"' for key, file in files.items())
    command = [str(BIN / "flower-supernode"), "--superlink", f"{HOST}:{port}", "--root-certificates", "ca.crt"]
    command += ["--host", HOST, "--port", str(own), "--auth-supernode-private-key", f"{name}.key"]
    processes.start(name, [*command, "--node-config", f'{told} per-slot={per_slot} policy="{POLICY}"'])


def wait_for(port: int, process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait until somebody listens. Raises RuntimeError if the process ends before, or nobody does in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the SuperLink did not start: see superlink.log in the folder that --keep names.")


def run(processes: Processes, seconds: float) -> list[str]:
    """Run the app, and pass on its progress lines. Raises RuntimeError if it does not end in time, or fails."""
    log = processes.start("run", [str(BIN / "flwr"), "run", "carried", "here", "--stream"])
    seen, end, process = [], time.monotonic() + seconds, processes.running["run"]
    while True:
        over = process.poll() is not None
        lines = [line for line in log.read_text(errors="replace").splitlines() if "fleke: " in line]
        for line in lines[len(seen) :]:
            print(line.partition("fleke: ")[2], flush=True)
        seen = lines
        if any("solve: " in line for line in lines):
            return [line.partition("fleke: ")[2] for line in seen]
        if over or time.monotonic() > end:
            raise RuntimeError(f"the run has not finished:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.5)


def compared(folder: Path, lm, parts, secret: bytes) -> tuple[int, float]:
    """How many hospitals have the weights of the run in one process, bit for bit, and that run's seconds."""
    begin, moments = time.monotonic(), second_moments(lm)
    provider, config = StoredProvider(lm, folder / "one-process"), ClientConfig(policy_named(POLICY))
    one = run_fedit(lm, parts, config, provider=provider, secret=secret, protection=Sealing())
    same = 0
    for part in parts:
        there = Edit.load(folder / f"{part.name}.memory" / "edit.safetensors")
        here = weights.cumulative(one, part.name, moments)
        same += all(torch.equal(there.delta(layer), here.delta(layer)) for layer in here.layers)
    return same, time.monotonic() - begin


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the federation both ways; 0 if all weights are equal, 1 if not or if it failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", type=int, default=4, help="how many (4)")
    parser.add_argument("--slots", type=int, default=2, help="how many (2)")
    parser.add_argument("--facts", type=int, default=2, help="facts of a hospital in a slot (2)")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to wait for the replies to a turn (600)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this new folder, and keep it")
    options = parser.parse_args(arguments)
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="fleke-federation-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for kind in (signal.SIGINT, signal.SIGTERM):  # a shell's background process ignores the first one otherwise
        signal.signal(kind, signal.default_int_handler)
    processes = Processes(folder, environment(folder))
    try:
        torch.set_num_threads(1)
        lm = load_model()
        second_moments(lm)  # once, into the cache that all hospitals read
        save_rules(Rules.of(lm), folder / "rules.json")
        parts, secret = prepare(folder, options.hospitals, options.facts, options.slots)
        begin = time.monotonic()
        start(folder, processes, parts, options.slots, options.patience)
        print(f"{len(parts)} hospitals have started after {time.monotonic() - begin:.0f} s", flush=True)
        run(processes, options.patience * (2 * options.slots + 2))
        seconds = time.monotonic() - begin
        processes.stop()
        same, alone = compared(folder, lm, parts, secret)
        print(f"{same} of {len(parts)} hospitals have the weights of the run in one process, bit for bit")
        print(f"{seconds:.0f} s over processes, {alone:.0f} s in one process")
        return 0 if same == len(parts) else 1
    except KeyboardInterrupt:
        print("\nstopped by hand", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        processes.stop()
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
