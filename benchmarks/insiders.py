"""Clients that lie, with and without each measure against them: ``python -m benchmarks.insiders``.

Eight clients have as many atlas facts each. The last 1, 2 or 4 of them lie: they publish packets that take the first
four clients' facts out of the edit of everybody who adopts everything, as strong as the rules admit
(`fleke_lib.privacy.attacks.poisoning`). Score and top-1 are over the first four clients' facts, which are the same in
every row. `--bounds 40` prints what honest packets of facts that no row reports have.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.functional import normalize

import fleke_lib as fleke
from fleke_lib.edit.moments import Moments
from fleke_lib.evaluation.metrics import prepare_evaluation
from fleke_lib.facts.fact import Fact
from fleke_lib.federation import Packet, Rules, Tags, pack
from fleke_lib.federation.packets.conflicts import oldest, own_wins, resolve
from fleke_lib.federation.registry.leverage import Leverage
from fleke_lib.federation.retrieval import represent
from fleke_lib.mkv.store import shipped_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.privacy.attacks.poisoning import cancelling, erasing, mistagged

TAGS = Tags(b"the clients' own")
CLIENTS, HONEST = 8, 4  # the first four never lie
LONG = 1000.0  # times a mean key: longer than the rules admit, which cut it


def packets_of(lm: LanguageModel, facts: Sequence[Fact]) -> list[Packet]:
    mkvs = shipped_mkvs(lm, facts)
    each = zip(facts, fleke.trajectories(lm, facts, mkvs), mkvs, strict=True)
    return [
        pack(path, mkv, f"client {i * CLIENTS // len(facts)}", 0, tags_of(fact))
        for i, (fact, path, mkv) in enumerate(each)
    ]


def tags_of(fact: Fact) -> dict[str, str]:
    return {"question": TAGS.question(fact), "answer": TAGS.answer(fact)}


def quantiles(values: Sequence[float]) -> str:
    sorted_ = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.0, 0.5, 0.95, 1.0]).double())
    return " / ".join(f"{value:.2f}" for value in sorted_)


def honest(leverage: Leverage, packets: Sequence[Packet]) -> None:
    """What honest packets have, in units of an ordinary key: least, median, 95%, greatest."""
    for layer in packets[0].layers:
        kinds = {"mean keys": "means", "base keys": "bases"}
        found = {
            what: leverage.rows(layer, torch.stack([getattr(one, name)[layer] for one in packets])).tolist()
            for what, name in kinds.items()
        }
        for j in range(len(packets[0].axes[layer])):
            found[f"axis {j}"] = leverage.rows(layer, torch.stack([one.axes[layer][j] for one in packets])).tolist()
        found["trace"] = [one.left[layer] / leverage.traces[layer] for one in packets]
        print(
            f"layer {layer}: " + "; ".join(f"{what} {quantiles(values)}" for what, values in found.items()), flush=True
        )
    print("weight of a packet:", quantiles([leverage.weight(one) for one in packets]), flush=True)
    for layer in packets[0].layers[:1]:
        keys = torch.nn.functional.normalize(torch.stack([one.means[layer] for one in packets]), dim=1)
        cosines = keys @ keys.T - 2 * torch.eye(len(keys))
        print(f"cosine of each key to its nearest at layer {layer}:", quantiles(cosines.amax(1).tolist()), flush=True)


def liars_packets(
    packets: Sequence[Packet], liars: int, rules: Rules, each: int, times: float, most: float
) -> list[Packet]:
    """Packets of the last clients: `each` for each of them, no heavier together than `most`."""
    victims = [one for one in packets if int(one.client.split()[1]) < HONEST]
    found, next_ = [], 0
    for liar in range(CLIENTS - liars, CLIENTS):
        name, spent = f"client {liar}", 0.0
        carriers = [one for one in packets if one.client == name]
        for n in range(each):
            chosen = [victims[(next_ + j) % len(victims)] for j in range(rules.axes // 2)]
            packet = erasing(carriers[n % len(carriers)], chosen, rules, name, 0, times=times, bases=True)
            spent += rules.leverage.weight(packet) if rules.leverage else 0.0
            if spent > most:
                break
            rules.check(packet.data)
            found.append(packet)
            next_ += len(chosen)
    return found


def near_the_median(packets: Sequence[Packet], kind: str, spread: float = 3.0) -> list[Packet]:
    """The packets that a check against the median of the cosines keeps.

    Each packet has the median of its cosines with other clients' packets. Those are left out whose median is further
    below the median of all than `spread` standard deviations, estimated from the median absolute deviation.
    """
    z, h = (torch.stack([getattr(packet, name) for packet in packets]) for name in ("z", "h"))
    compared = normalize(represent(kind, z, h), dim=1)
    clients = [packet.client for packet in packets]
    found = torch.stack([
        (compared[i] @ compared[[j for j, other in enumerate(clients) if other != client]].T).median()
        for i, client in enumerate(clients)
    ])  # fmt: skip
    middle = found.median()
    least = middle - spread * 1.4826 * (found - middle).abs().median()
    return [packet for packet, one in zip(packets, found.tolist(), strict=True) if one >= least]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.insiders", description=__doc__)
    parser.add_argument("--facts", type=int, default=96, help="facts in the federation, a multiple of 8")
    parser.add_argument("--liars", type=int, nargs="+", default=[1, 2, 4], help="how many of eight clients lie")
    parser.add_argument("--only", nargs="+", default=[""], help="only rows with one of these texts in their names")
    parser.add_argument(
        "--median", action="store_true", help="what a check against the median of the cosines leaves out, no scores"
    )
    parser.add_argument("--bounds", type=int, default=0, help="tuning facts whose leverages are printed")
    given = parser.parse_args()
    lm, atlas = fleke.load_model(), fleke.load_facts("atlas")
    moments: Moments = fleke.second_moments(lm)
    rules = Rules.of(lm, moments=moments)
    if given.bounds:
        honest(rules.leverage, packets_of(lm, atlas[: given.bounds]))
    facts = atlas[111 : 111 + given.facts]
    attacks(lm, moments, rules, facts, packets_of(lm, facts), given.liars, given.only, given.median)


def attacks(
    lm: LanguageModel,
    moments: Moments,
    rules: Rules,
    facts: Sequence[Fact],
    packets: Sequence[Packet],
    numbers: Sequence[int],
    only: Sequence[str],
    median: bool = False,
) -> None:
    """A table of the ways to lie for each number of liars."""
    others = [fact for fact, one in zip(facts, packets, strict=True) if int(one.client.split()[1]) < HONEST]
    prepared = None if median else prepare_evaluation(lm, others, below=min(lm.preset.layers))
    own = len(packets) // CLIENTS
    usual = sum(map(rules.leverage.weight, packets)) / len(packets)
    print(f"{len(packets)} packets, weight {usual:.2f} in the mean; score over {len(others)} facts", flush=True)

    def row(what: str, held: Sequence[Packet]) -> None:
        if not any(text in what for text in only):
            return
        if median:
            passed(what, held)
            return
        edit = fleke.edit.trajectory(sorted(held, key=lambda one: (one.content, one.id)), moments)
        with edit.applied(lm):
            found = fleke.evaluate(lm, others, prepared=prepared)
        print(f"| {what} | {len(held) - len(packets)} | {found.score:.3f} | {found.top1:.3f} |", flush=True)

    def passed(what: str, held: Sequence[Packet]) -> None:
        """How many honest packets and lies the check against the median leaves out; copies of a packet count once."""
        honest_ones, all_ = {packet.id for packet in packets}, {packet.id for packet in held}
        for kind in ("raw", "centred", "residual"):
            left = all_ - {packet.id for packet in near_the_median(held, kind)}
            lies = all_ - honest_ones
            print(
                f"| {what}; {kind} | {len(left & lies)} of {len(lies)} lies | {len(left & honest_ones)} honest ones |",
                flush=True,
            )

    columns = "left out: lies | honest packets" if median else "packets more | score | top-1"
    print(f"| what | {columns} |\n{'|---' * (columns.count('|') + 2)}|", flush=True)
    row("nobody lies", packets)
    before, bounded = replace(rules, axes=8, leverage=None), rules
    for liars in numbers:
        told = [one for one in packets if int(one.client.split()[1]) < CLIENTS - liars]
        ways = {
            "norms only, 8 axes, 4 times the packets": (before, 4 * own, float("inf")),
            "4 axes, leverage": (bounded, 4 * own, float("inf")),
            "4 axes, leverage, quota": (bounded, own, float("inf")),
            "4 axes, leverage, quota, weight": (bounded, own, 1.5 * own * usual),
        }
        for what, (under, each, most) in ways.items():
            row(f"{liars} erase; {what}", [*told, *liars_packets(packets, liars, under, each, LONG, most)])
        fake = [Fact(f"Nobody {i}", "{} is", "no", "one") for i in range(len(others))]
        victims = [one for one in packets if int(one.client.split()[1]) < HONEST][: liars * own]
        for turned, opposed in ((0.0, 1.0), (0.15, 1.0), (0.35, 1.0), (0.0, 0.19)):
            lies = [
                cancelling(
                    victim, tags_of(no), f"client {CLIENTS - 1 - i % liars}", 0, turned=turned, opposed=opposed, seed=i
                )
                for i, (victim, no) in enumerate(zip(victims, fake, strict=False))
            ]
            how = f"{liars} cancel {opposed:g} of a share, keys turned by {turned:g}"
            row(f"{how}; no measure", [*told, *lies])
            if len(kept := resolve([], [*told, *lies], oldest)) < len(told) + len(lies):
                row(f"{how}; keys compared", kept)
        carriers = [one for one in packets if one not in told]
        lies = [
            mistagged(carrier, victim, carrier.client, 0) for carrier, victim in zip(carriers, victims, strict=True)
        ]
        row(f"{liars} take others' tags; one packet an answer", one_an_answer([*told, *lies]))
        row(f"{liars} take others' tags; keys compared", resolve([], [*told, *lies], own_wins))
        lies = [
            cancelling(victim, {"question": victim.question, "answer": victim.answer}, carrier.client, 0)
            for carrier, victim in zip(carriers, victims, strict=True)
        ]
        row(f"{liars} take others' tags and keys; keys compared", resolve([], [*told, *lies], own_wins))


def one_an_answer(packets: Sequence[Packet]) -> list[Packet]:
    """One packet for each answer tag, whatever its keys; within one slot, that of the least content."""
    return [*{one.answer: one for one in sorted(packets, key=lambda one: one.content, reverse=True)}.values()]


if __name__ == "__main__":
    main()
