"""Withdraw a client, or single packets, from a registry's file, plain or sealed.

    withdraw --registry r.db --client bern --certificate withdrawal.json --key signing.pem
    withdraw --registry r.db --complete 1
    withdraw --node memory

The packets' bytes are erased, and of sealed packets their keys first. The request stays pending until everything that
was derived from them is made again: then every client calls `adopt`, and `--complete` closes the request. The
certificate says what was erased here, and that a search of the file's bytes finds nothing. It says nothing of weights.

With `--node` the member whose node has this folder withdraws from a federation over machines. Its node asks the server
in the next turn, and the server makes everybody else edit again. Where sums are added up, it takes part in none from
then on, and the next total is without its facts.
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fleke_lib.commands.opening import add_registry, opened, private_key
from fleke_lib.federation.flower.node import leave
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.registry.tombstones import WithdrawalRequest
from fleke_lib.federation.sealing.store import SealedStore
from fleke_lib.storage.files import user_path
from fleke_lib.unlearn.edits.certificate import Check, certify
from fleke_lib.unlearn.edits.traces import traces


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `withdraw`."""
    add_registry(parser, required=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--client", metavar="NAME", help="everything that this client has published")
    which.add_argument("--packets", nargs="+", metavar="ID", help="the packets with these ids")
    which.add_argument("--complete", type=int, metavar="N", help="withdraw nothing; close request N")
    which.add_argument("--node", type=user_path, metavar="FOLDER", help="everything of the node with this folder")
    parser.add_argument("--certificate", type=user_path, metavar="FILE", help="where a signed certificate is written")
    parser.add_argument("--key", type=user_path, metavar="FILE", help="the Ed25519 private key that signs it, in PEM")


def main(arguments: argparse.Namespace) -> int:
    """Withdraw or complete, and say so; 1 if a check of the certificate fails."""
    if (arguments.certificate is None) != (arguments.key is None):
        raise ValueError("a certificate needs a key that signs it: give --certificate and --key, or neither.")
    if (arguments.registry is None) == (arguments.node is None) or (arguments.node and arguments.key):
        raise ValueError("a node withdraws from a server, all others from a file: give --node alone, or --registry.")
    if arguments.node:
        print(f"{leave(arguments.node)}: the node asks the server in its next turn")
        return 0
    key = arguments.key and private_key(arguments.key)
    with opened(arguments.registry) as store:
        if arguments.complete is not None:
            done = store.complete(_pending(store, arguments.complete))
            print(f"request {done.number} is complete: {done.packets} packets")
            return 0
        before = _packets(store, arguments.client, arguments.packets) if key else []
        request = store.withdraw(client=arguments.client, packets=arguments.packets)
        print(f"request {request.number}: {request.packets} packets erased; pending until clients adopt again")
        checks = _checks(store, arguments, request, before) if key else []
    if not key:
        return 0
    certificate = certify(
        client=arguments.client or "",
        marks=request.marks,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        method="erased from the registry; weights are for the clients to solve again",
        weights_before={},
        weights_after={},
        checks=checks,
        key=key,
    )
    for check in checks:
        print(f"{'holds' if check.passed else 'FAILS'}: {check.name}")
    print(certificate.save(arguments.certificate))
    return 0 if certificate.passed else 1


def _pending(store: Registry | SealedStore, number: int) -> WithdrawalRequest:
    for request in store.pending():
        if request.number == number:
            return request
    open_ = ", ".join(str(request.number) for request in store.pending()) or "none"
    raise ValueError(f"request {number} is not pending: give one that `status` lists ({open_}).")


def _packets(store: Registry | SealedStore, client: str | None, ids: Sequence[str] | None) -> list[Packet]:
    """The packets that go, for the search of their bytes; sealed ones cannot be read."""
    if isinstance(store, SealedStore):
        return []
    ids = store.vectors(client=client).ids if client is not None else ids or ()
    return [Packet.read(data) for data in store.get([id for id in ids if not store.withdrawn([id])])]


def _checks(
    store: Registry | SealedStore, arguments: argparse.Namespace, request: WithdrawalRequest, before: list[Packet]
) -> list[Check]:
    left = sum(number for client, _, number in store.counts() if client == arguments.client)
    checks = [
        Check("the registry holds no packet of the client" if arguments.client else "the packets are erased", not left),
        Check("the registry's file is sound", not store.verify(), {"packets erased": request.packets}),
    ]
    if before:
        kept = [Packet.read(data) for data in store.get(store.vectors().ids)]
        search = traces(_files(store.path), before, kept)
        checks.append(Check("no bytes of the packets in the registry's files", not search.found, _figures(search)))
    return checks


def _figures(search) -> dict[str, float]:
    return {"pieces searched": search.pieces, "traces": len(search.found), "bytes": search.size}


def _files(path: Path) -> list[Path]:
    """The registry's file and what SQLite may have left beside it."""
    return [path, *(file for end in ("-wal", "-journal") if (file := path.with_name(path.name + end)).is_file())]
