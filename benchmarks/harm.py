"""The harm of each method's edit of many atlas facts, and what it writes after a few neutral prompts.

python -m benchmarks.harm [--facts 480] [--methods MEMIT PMET ...] [--from 0] [--prompts 4]
"""

import argparse
import time
from collections.abc import Callable

import torch

import fleke_lib as fleke
from fleke_lib.edit.closed_form import lambda_of
from fleke_lib.edit.methods import methods
from fleke_lib.evaluation.harm import prepare_harm
from fleke_lib.mkv.store import stored_mkvs
from fleke_lib.model.generation import greedy

CLOSED = "whole trajectories"
CAPITALS = [f"The capital of {place} is" for place in ("the United States", "France", "Japan", "Canada")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--facts", type=int, default=480, help="facts in one edit")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first of them")
    parser.add_argument("--methods", nargs="+", choices=[*methods(), CLOSED], default=["MEMIT", "AlphaEdit", "PMET"])
    parser.add_argument("--prompts", type=int, default=4, help="neutral prompts to continue, besides four capitals")
    options = parser.parse_args()
    lm = fleke.load_model()
    facts = fleke.load_facts("atlas")[options.first : options.first + options.facts]
    reference, moments = prepare_harm(lm), fleke.second_moments(lm)
    asked = [*CAPITALS, *reference.prompts[:: max(1, len(reference.prompts) // options.prompts)]]
    print(f"{lm}, {torch.get_num_threads()} threads; atlas facts {options.first} to {options.first + len(facts) - 1}")
    print("| method | perplexity | KL, nats | battery | seconds |\n|---|---|---|---|---|")
    written = {"before": greedy(lm, asked, 8)}
    for name in options.methods:
        begin = time.perf_counter()
        with edit_of(name, lm, facts, moments)().applied(lm):
            found = reference.measure(lm)
            written[name] = greedy(lm, asked, 8)
        cells = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for _, value, low, high, _ in found.rows()]
        print(f"| {name} | {' | '.join(cells)} | {time.perf_counter() - begin:.0f} |", flush=True)
    for i, prompt in enumerate(asked):
        print(f"\n{prompt} ...")
        for name, texts in written.items():
            print(f"    {name:<20}{texts[i]!r}")


def edit_of(name: str, lm, facts, moments) -> Callable[[], fleke.Edit]:
    """A function that computes the edit of these facts by the method of this name."""
    if name == CLOSED:
        facts = fleke.shareable(lm, facts)
        return lambda: fleke.edit.trajectory(
            fleke.trajectories(lm, facts, stored_mkvs(lm, facts)), moments, lambda_of(lm.preset)
        )
    method = methods()[name]
    mkvs = stored_mkvs(lm, facts, method.vectors) if method.vectors else None
    return lambda: method.edit(lm, facts, mkvs, moments)


if __name__ == "__main__":
    main()
