"""Say what a registry's file holds, plain or sealed: packets by client and slot, open withdrawals, damage.

    status --registry r.db

The exit status is 1 if the file is damaged.
"""

import argparse

from fleke_lib.commands.opening import add_registry, opened
from fleke_lib.federation.sealing.store import SealedStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `status`."""
    add_registry(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print the file's content, what is pending, and its faults."""
    with opened(arguments.registry) as store:
        kind, size = "sealed" if isinstance(store, SealedStore) else "plain", arguments.registry.stat().st_size
        print(f"{arguments.registry}: {len(store)} {kind} packets, {size} bytes")
        by_client: dict[str, list[str]] = {}
        for client, slot, number in store.counts():
            by_client.setdefault(client, []).append(f"{number} in slot {slot}")
        for client, slots in by_client.items():
            print(f"  {client}: {', '.join(slots)}")
        for request in store.pending():
            print(f"  withdrawal {request.number} of {request.packets} packets is pending")
        faults = store.verify()
    for fault in faults:
        print(f"  damaged: {f'packet {fault.id[:12]} ' if fault.id else ''}{fault.what}")
    return 1 if faults else 0
