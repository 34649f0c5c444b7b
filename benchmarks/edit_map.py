"""What a warm start saves, and what it costs: cold, mapped by n facts, and from residuals with the same answer.

python -m benchmarks.edit_map [--facts 24] [--taught 25 50 100 200 400] [--steps 7 12 25] [--threads 1]

The facts are drawn from the atlas by a seed, and teach no map. The shipped MKVs of the other facts teach the maps, and
give their residuals as starts where the answer is the same; a fact without such a start starts cold, and "answers"
counts the facts with one. Each row is an edit of these facts by the closed form. "change" is its score minus that of
the first row, with a 95% paired bootstrap interval over facts. Seconds are processor seconds; compare within one run.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

import torch

import fleke_lib as fleke
from fleke_lib.evaluation import difference, prepare_evaluation
from fleke_lib.mkv import EditMap, shipped_mkvs, teach

HEAD = "start              steps at most  answers   steps    loss  s per MKV  |r|/|h|  top-1  efficacy  paraphrase"


@dataclass(frozen=True)
class Row:
    """One way to start. answers: the number of facts whose answer the start has seen."""

    name: str
    starts: torch.Tensor | None
    answers: int
    steps: int


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--facts", type=int, default=24, help="facts to optimise and edit")
    options.add_argument("--taught", type=int, nargs="+", default=[25, 50, 100, 200, 400], help="facts that teach")
    options.add_argument("--steps", type=int, nargs="+", default=[7, 12, 25], help="evaluations allowed")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)

    lm, atlas = fleke.load_model(), fleke.load_facts("atlas")
    mkvs = dict(zip(atlas, shipped_mkvs(lm, atlas), strict=True))
    drawn = random.Random(chosen.seed).sample(atlas, len(atlas))
    facts, rest = drawn[: chosen.facts], drawn[chosen.facts :]
    most, steps = max(chosen.taught), sorted(chosen.steps, reverse=True)
    print(f"{lm}\n{len(facts)} facts, {chosen.threads} threads, seed {chosen.seed}")

    rows = [
        Row("cold", None, 0, steps[0]),
        mapped(lm, facts, rest[:most], mkvs, steps[0]),
        same_answer(lm, facts, rest, mkvs, steps[0]),
    ]
    rows += [replace(row, steps=fewer) for fewer in steps[1:] for row in rows]
    rows += [mapped(lm, facts, rest[:n], mkvs, steps[0]) for n in sorted(chosen.taught)[:-1]]
    measure(lm, facts, rows)


def mapped(lm, facts: Sequence[fleke.Fact], teachers: Sequence[fleke.Fact], mkvs: dict, steps: int) -> Row:
    taught = EditMap.solve(teach(lm, teachers, [mkvs[fact] for fact in teachers]))
    known = {fact.target_new for fact in teachers}
    answers = sum(fact.target_new in known for fact in facts)
    return Row(f"mapped by {len(teachers)}", taught.predict(lm, facts), answers, steps)


def same_answer(lm, facts: Sequence[fleke.Fact], others: Sequence[fleke.Fact], mkvs: dict, steps: int) -> Row:
    """The mean residual of all other facts with the same answer."""
    alike = [[mkvs[other].residual for other in others if other.target_new == fact.target_new] for fact in facts]
    starts = [torch.stack(found).mean(0) if found else torch.zeros(lm.d_model) for found in alike]
    return Row("same answer", torch.stack(starts), sum(map(bool, alike)), steps)


def measure(lm, facts: Sequence[fleke.Fact], rows: Sequence[Row]) -> None:
    """Measure the rows, and print each when it is done."""
    moments, prepared = fleke.second_moments(lm), prepare_evaluation(lm, facts)
    first = None
    print(f"\n{HEAD}  specificity  score  change")
    for row in rows:
        before = time.process_time()
        hparams = replace(lm.preset.memit, steps=row.steps)
        mkvs = fleke.compute_mkvs(lm, facts, hparams=hparams, starts=row.starts)
        seconds = (time.process_time() - before) / len(facts)
        with fleke.edit.trajectory(fleke.trajectories(lm, facts, mkvs), moments).applied(lm):
            found = fleke.evaluate(lm, facts, prepared=prepared)
        first = first or found
        change, low, high = difference(found, first, "score")
        length = mean(float(mkv.residual.norm() / mkv.h.norm()) for mkv in mkvs)
        print(
            f"{row.name:<19}{row.steps:13}{row.answers:9}{mean(m.steps for m in mkvs):8.1f}"
            f"{mean(m.loss for m in mkvs):8.3f}{seconds:11.2f}{length:9.2f}{found.top1:7.3f}{found.efficacy:10.3f}"
            f"{found.paraphrase:12.3f}{found.specificity:13.3f}{found.score:7.3f}  "
            f"{change:+.3f} [{low:+.3f}, {high:+.3f}]",
            flush=True,
        )


if __name__ == "__main__":
    main()
