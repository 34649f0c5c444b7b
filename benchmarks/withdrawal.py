"""Seconds to withdraw a client, by replay and by downdate, against starting over: ``python -m benchmarks.withdrawal``.

The federation uses the shipped MKVs, because optimising hundreds of them would take too long. The time to optimise one
is measured on a few facts in the same run, and multiplied.
"""

import argparse
import time
from collections.abc import Callable

import torch

import fleke_lib as fleke
from fleke_lib.edit.downdate import factorise
from fleke_lib.federation import Everyone, VectorProvider, partition, run_fedit, weights
from fleke_lib.unlearn.edits import downdate, withdraw


def seconds(work: Callable) -> tuple[float, object]:
    """The seconds that a call took, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.withdrawal", description=__doc__)
    parser.add_argument("--facts", type=int, nargs="+", default=[120, 240, 480], help="facts in the federation")
    parser.add_argument("--clients", type=int, default=8, help="how many hold them")
    parser.add_argument("--leave", type=int, nargs="+", default=[1, 4], help="how many clients withdraw")
    parser.add_argument("--optimised", type=int, default=6, help="facts whose MKVs are optimised for the comparison")
    given = parser.parse_args()
    lm, atlas = fleke.load_model(), fleke.load_facts("atlas")[111:]
    moments = fleke.second_moments(lm)
    each, _ = seconds(lambda: fleke.compute_mkvs(lm, atlas[: given.optimised]))
    each /= given.optimised
    print(f"optimising an MKV: {each:.2f} s; {torch.get_num_threads()} threads")
    for n in given.facts:
        parts = partition(atlas[:n], given.clients, slots=10, seed=0)
        provider = VectorProvider(lm)
        making, _ = seconds(lambda: provider(atlas[:n]))  # noqa: B023
        run = run_fedit(lm, parts, Everyone(), provider=provider, secret=b"the clients' own")
        stays = run.clients[-1]
        factoring, system = seconds(lambda: factorise(weights.held(run, stays), moments))  # noqa: B023
        for k in given.leave:
            after, replay = run, 0.0
            for client in run.clients[:k]:
                took, after = seconds(lambda: withdraw(after, client=client))  # noqa: B023
                replay += took
            solving, _ = seconds(lambda: weights.cumulative(after, stays, moments))  # noqa: B023
            down, _ = seconds(lambda: downdate(system, run, after, stays))  # noqa: B023
            anew = (each + making / n) * len(after.packets) + solving
            print(
                f"{n} facts, {k} of {given.clients} leave, {len(after.packets)} stay: replay {replay:.2f} s, solving "
                f"{solving:.2f} s, downdate {down:.2f} s (its factor, made once: {factoring:.2f} s); everything again "
                f"{anew:.0f} s, {anew / (replay + solving):.0f} times a replay and {anew / down:.0f} times a downdate"
            )


if __name__ == "__main__":
    main()
