"""Run the node of one member: its SuperNode connects to the server, and its facts, keys and edit stay here.

    node --superlink server.org:8000 --root-certificates ca.crt --node-key bern.key --folder memory
         --facts bern.json --per-slot 2 --identity bern.identity --group group.json --secret secret.bin

It works until it is stopped, and after a restart with the same folder it is where it was. The edit is written to
edit.safetensors in the folder. Stopped by SIGTERM it exits with 0, by Ctrl-C with 130. Its SuperNode is started again
when it ends, for example because the server does not know its key yet.

With --rules, a file of `rules --protection summed` that all members have, its packets stay here, too, and it sends
masked sums. Without it the packets are sealed. The server cannot change either.
"""

import argparse
import contextlib
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from fleke_lib.commands.opening import policy_of
from fleke_lib.federation.client import OFFERED
from fleke_lib.federation.flower.listening import listening, serve
from fleke_lib.federation.flower.processes import Kept, free_port, supernode
from fleke_lib.federation.flower.settings import node_from
from fleke_lib.federation.retrieval.named import CHOICES
from fleke_lib.model import shipped
from fleke_lib.storage.files import user_path

FILES = {
    "folder": "its memory, which belongs to its owner alone",
    "identity": "its two private keys",
    "group": "the public keys of all members",
    "secret": "the members' common secret",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `node`."""
    for name, about in FILES.items():
        parser.add_argument(f"--{name}", type=user_path, required=True, metavar="FILE", help=about)
    parser.add_argument("--facts", required=True, metavar="FILE", help="its facts: a JSON file that load_facts reads")
    parser.add_argument(
        "--per-slot",
        type=int,
        nargs="+",
        required=True,
        metavar="N",
        help="how many of them become due in slot 0, 1, ...; the last number goes on for all later slots",
    )
    parser.add_argument("--policy", type=_named, default="majority", help=f"one of {CHOICES} (majority)")
    parser.add_argument("--representation", choices=OFFERED, default="centred", help="what is compared (centred)")
    parser.add_argument(
        "--model", default=shipped.NAME, metavar="NAME", help=f"a hub name or a folder ({shipped.NAME})"
    )
    parser.add_argument(
        "--most-weight",
        type=float,
        metavar="W",
        help="bounds leverages, and the weight of a member's packets in a slot; a usual fact weighs 3 to 5 (no bound)",
    )
    parser.add_argument(
        "--rules", type=user_path, metavar="FILE", help="the members' rules if sums are added up (none)"
    )
    parser.add_argument("--superlink", metavar="HOST:PORT", help="the server; without it no SuperNode is started")
    parser.add_argument("--root-certificates", type=user_path, metavar="FILE", help="who vouches for the server")
    parser.add_argument("--node-key", type=user_path, metavar="FILE", help="the SuperNode's private key")
    parser.add_argument("--socket", type=user_path, metavar="FILE", help="where the SuperNode reaches this process")


def main(arguments: argparse.Namespace) -> int:
    """Answer turns until the process is stopped."""
    if arguments.superlink and not (arguments.root_certificates and arguments.node_key):
        raise ValueError("a SuperNode speaks TLS and has a key: give --root-certificates and --node-key.")
    if not (arguments.superlink or arguments.socket):
        raise ValueError("nobody would reach this node: give --superlink, or --socket for a SuperNode of your own.")
    told = {name.replace("_", "-"): value for name, value in vars(arguments).items()}
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory(prefix="fleke-")))  # for its owner alone
        path = arguments.socket or place / "node"
        node = node_from(told)
        line = stack.enter_context(listening(path))
        going = _always
        if arguments.superlink:
            at = (arguments.superlink, arguments.root_certificates, arguments.node_key, free_port(), path)
            kept = Kept(supernode(*at), node.folder / "flower", node.folder / "supernode.pid", _complain)
            stack.callback(kept.close)
            going = kept.look
        print(f"{node.client.name}: {len(node.client.own)} own packets, {len(node.client.adopted)} adopted", flush=True)
        _ = node.lm  # loaded before the first turn comes
        serve(line, node.turn, going, _complain)
    return 0


def _named(text: str) -> str:
    policy_of(text)
    return text


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _always() -> bool:
    return True


def _stop(*_) -> None:
    sys.exit(0)
