"""A federation of 1,000 clients on one machine, with synthetic packets: ``python -m benchmarks.thousand_clients``.

Vectors are random and have the default model's sizes, so no MKV is computed and no model is loaded; everything else is
real: packing, the rules with leverages, both registries' files, sealing, opening, the policy, the solve. The unit costs
are printed, and what follows from them for other numbers of clients. Times are of the processor, with one thread.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TypeVar

import psutil
import torch

import fleke_lib as fleke
from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.facts.fact import Fact
from fleke_lib.federation import Majority, Packet, Registry, Rules, Tags, pack
from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.registry.leverage import Leverage
from fleke_lib.federation.retrieval import represent
from fleke_lib.federation.sealing import Draws, Group, Identity
from fleke_lib.federation.sealing.channel import WholeSlots
from fleke_lib.federation.sealing.epochs import Keyring
from fleke_lib.federation.sealing.exchange import BlindServer
from fleke_lib.federation.sealing.keys import KEY
from fleke_lib.federation.sealing.sealed import seal
from fleke_lib.federation.sealing.store import SealedStore, keys_of
from fleke_lib.mkv.mkv import Mkv

D_MODEL, D_MLP, LAYERS, CONTEXTS = 576, 1536, (4, 6, 8, 10, 12, 14), 6
FINGERPRINT, TAGS = "0" * 64, Tags(b"the clients' own secret")
OTHERS = (10, 1_000, 100_000)
T = TypeVar("T")


@dataclass(frozen=True)
class Costs:
    """What one packet costs: bytes, and seconds of the processor."""

    plain_bytes: float
    sealed_bytes: float
    card_bytes: float
    packing: float
    admitting: float
    sealing: float
    storing: float
    opening: float
    summing: float
    solving: float  # of an edit, whatever the number of packets


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of the processor, and the result."""
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def path_of(seed: int) -> tuple[Trajectory, Mkv]:
    """A trajectory of random vectors whose norms are like those of the default model's."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int, norm: float) -> torch.Tensor:
        return norm / shape[-1] ** 0.5 * torch.randn(*shape, generator=generator)

    h, residual = randn(D_MODEL, norm=180.0), randn(D_MODEL, norm=90.0)
    centre = {layer: randn(D_MLP, norm=8.0) for layer in LAYERS}
    keys = {layer: centre[layer] + randn(CONTEXTS, D_MLP, norm=2.0) for layer in LAYERS}
    shares = {layer: residual / len(LAYERS) for layer in LAYERS}
    words = {layer: torch.empty(0, D_MLP) for layer in LAYERS}
    return Trajectory(keys, shares, FINGERPRINT, residual, words, centre), Mkv(h + residual, h)


def packets_of(clients: int, facts: int) -> tuple[float, list[Packet]]:
    """Packets of all clients, and the seconds for each."""
    taken, found = [], []
    for i in range(clients * facts):
        (path, mkv), fact = path_of(i), Fact(f"Subject {i}", "The colour of {} is", "new", "old")
        tags = {"question": TAGS.question(fact), "answer": TAGS.answer(fact)}
        seconds, packet = timed(lambda: pack(path, mkv, f"client {i // facts}", 0, tags))  # noqa: B023
        taken.append(seconds), found.append(packet)
    return mean(taken), found


def moments() -> dict[int, torch.Tensor]:
    """C of keys that point in all directions alike."""
    return {layer: torch.eye(D_MLP, dtype=torch.float64) * 64.0 / D_MLP for layer in LAYERS}


def plain(folder: Path, packets: Sequence[Packet], rules: Rules) -> tuple[float, int]:
    """Seconds to admit and store a packet, and the file's size."""
    with Registry(folder / "plain.db", rules) as registry:
        seconds, _ = timed(lambda: [registry.put(packet.data) for packet in packets])
    return seconds / len(packets), (folder / "plain.db").stat().st_size


def sealed(folder: Path, packets: Sequence[Packet], rules: Rules) -> dict[str, float]:
    """Seconds to seal, to store and to open a packet, and bytes."""
    draws = Draws()
    names = sorted({packet.client for packet in packets})
    identities = {name: Identity.draw(name, draws) for name in [*names, "reader"]}
    group = Group({name: one.member for name, one in identities.items()}, dealer="reader")
    keyring = Keyring().plus(0, draws(KEY, "epoch", "0"))
    with SealedStore(folder / "sealed.db", rules, group) as store:
        server, found = BlindServer(store), {}

        def seal_all() -> list[tuple[str, bytes]]:
            made = []
            for packet in packets:
                one, keys = seal(packet, identities[packet.client], 0, draws)
                made.append((packet.client, joined([one.data, keyring.wrap(one.card, keys, draws)])))
            return made

        found["sealing"], messages = timed(seal_all)
        found["storing"], _ = timed(lambda: [server.handle("put", message, name) for name, message in messages])
        channel = WholeSlots(
            server, "reader", identity=identities["reader"], group=group, rules=rules, keyring=keyring, draws=draws
        )
        found["opening"], _ = timed(lambda: channel.get(channel.offers(0).ids))
        found["size"] = sum(file.stat().st_size for file in (store.path, keys_of(store.path))) * 1.0
        found["fetched"] = float(len(server.handle("since", json.dumps([0, "reader"]).encode(), "reader")))
        found["cards"] = float(len(server.handle("offers", json.dumps([0, "reader"]).encode(), "reader")))
        assert len(cut_apart(server.handle("offers", json.dumps([0, "reader"]).encode(), "reader"))) == len(packets)
    return found


def solved(packets: Sequence[Packet], most: int) -> tuple[float, float]:
    """Seconds that a packet adds to an edit, and those that the edit takes in any case."""
    c, many, few = moments(), packets[:most], packets[: max(1, most // 4)]
    whole, _ = timed(lambda: fleke.edit.trajectory(many, c))
    part, _ = timed(lambda: fleke.edit.trajectory(few, c))
    each = (whole - part) / (len(many) - len(few))
    return each, max(0.0, whole - each * len(many))


def chosen(packets: Sequence[Packet], own: int) -> float:
    """Seconds in which a client compares its packets with everybody's."""

    def compare() -> torch.Tensor:
        z, h = (torch.stack([getattr(packet, name) for packet in packets]) for name in ("z", "h"))
        compared = represent("centred", z, h)
        return Majority(0.4).choose(compared[:own], compared[own:])

    return timed(compare)[0]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.thousand_clients", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--facts", type=int, default=1, help="facts of a client (1)")
    parser.add_argument("--solved", type=int, default=1000, help="packets in the edit that is timed (1000)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    packing, packets = packets_of(given.clients, given.facts)
    rules = Rules(FINGERPRINT, LAYERS, D_MODEL, D_MLP, leverage=Leverage.of(moments(), LAYERS))
    with TemporaryDirectory() as name:
        admitting, size = plain(Path(name), packets, rules)
        found = sealed(Path(name), packets, rules)
    n = len(packets)
    summing, solving = solved(packets, min(given.solved, n))
    print(f"{given.clients} clients, {n} packets of {mean(len(one.data) for one in packets):.0f} bytes")
    print(f"one client's choice among all offers: {chosen(packets, given.facts):.2f} s")
    print(f"peak memory of this process: {psutil.Process().memory_info().rss / 1e9:.2f} GB at the end")
    costs = Costs(
        size / n, found["size"] / n, found["cards"] / n, packing, admitting,
        found["sealing"] / n, found["storing"] / n, found["opening"] / n, summing, solving,
    )  # fmt: skip
    show(costs, found["fetched"] / n, given.facts)


def show(costs: Costs, fetched: float, facts: int) -> None:
    """The unit costs, and what follows for other numbers of clients."""
    print("\n| of one packet | |\n|---|---|")
    for what, value in (
        ("bytes in a plain registry's file", f"{costs.plain_bytes:.0f}"),
        ("bytes in the two files of a sealed one", f"{costs.sealed_bytes:.0f}"),
        ("bytes that a member fetches, everything", f"{fetched:.0f}"),
        ("bytes that a member fetches, the card alone", f"{costs.card_bytes:.0f}"),
        ("ms to pack it", f"{1e3 * costs.packing:.1f}"),
        ("ms to admit and store it, plain", f"{1e3 * costs.admitting:.1f}"),
        ("ms to seal it", f"{1e3 * costs.sealing:.2f}"),
        ("ms to admit and store it, sealed", f"{1e3 * costs.storing:.2f}"),
        ("ms for a member to open and check it", f"{1e3 * costs.opening:.2f}"),
        ("ms that it adds to an edit", f"{1e3 * costs.summing:.2f}"),
        ("s of an edit in any case", f"{costs.solving:.1f}"),
    ):
        print(f"| {what} | {value} |")
    print(
        "\n| clients | packets | registry | server's time to store | a member fetches | and opens | all members fetch |"
    )
    print("|---|---|---|---|---|---|---|")
    for clients in OTHERS:
        n = clients * facts
        print(
            f"| {clients:,} | {n:,} | {n * costs.sealed_bytes / 1e9:.3g} GB | {n * costs.storing:.3g} s "
            f"| {n * fetched / 1e9:.3g} GB | {n * costs.opening:.3g} s | {clients * n * fetched / 1e12:.3g} TB |"
        )


if __name__ == "__main__":
    main()
