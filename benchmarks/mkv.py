"""Seconds per MKV, and what the edits are worth: the plain version, the library's default, and its fast variants.

    python -m benchmarks.mkv [--facts 24] [--data atlas] [--first 111] [--plain 4] [--batch 1 16] [--growth 1 3 10 30]

Rows of the table: the textbook, one fact at a time through the whole model (on the first `--plain` facts); the
library's default (Adam); its fast variant (`Hparams.fast`), cold and from the shipped edit map's predictions. All have
the same contexts. Each row's MKVs are written together by the closed form. "score" and "harm" are the changes of score
and specificity against the default's edit, with 95% paired bootstrap intervals over facts. The map is taught by the
atlas's MKVs without those of the facts that are measured. Seconds are processor seconds; compare within one run.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from tqdm import tqdm

import fleke_lib as fleke
from fleke_lib.evaluation import difference, prepare_evaluation
from fleke_lib.facts import contexts_for
from fleke_lib.mkv import EditMap, shipped_mkvs, teach
from fleke_lib.model import Hparams
from tests.textbook.memit import optimum

HEAD = "batch   steps    loss  |r|/|h|  s per MKV   ratio  top-1  efficacy  paraphrase  specificity  score"


@dataclass(frozen=True)
class Row:
    """One way to compute MKVs."""

    name: str
    hparams: Hparams
    batch: int
    starts: torch.Tensor | None = None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--facts", type=int, default=24, help="facts to optimise and edit")
    options.add_argument("--data", default="atlas", help="a name or a path for load_facts")
    options.add_argument("--first", type=int, default=111, help="the first of these facts; 0 to 110 chose the settings")
    options.add_argument("--plain", type=int, default=4, help="facts for the textbook")
    options.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="facts optimised together")
    options.add_argument("--growth", type=int, nargs="*", default=[], help="numbers of facts to time")
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)

    lm = fleke.load_model()
    facts = fleke.load_facts(chosen.data)[chosen.first : chosen.first + chosen.facts]
    hparams, starts = lm.preset.memit, predicted(lm, facts)
    print(f"{lm}\n{len(facts)} facts, {chosen.threads} threads, at most {hparams.steps} evaluations by default")
    rows = [
        row
        for batch in sorted(chosen.batch, reverse=True)
        for row in (
            Row("default", hparams, batch),
            Row("fast", hparams.fast(), batch),
            Row("fast, from the map", hparams.fast(), batch, starts),
        )
    ]
    fleke.compute_mkvs(lm, facts[:1], hparams=hparams.fast())  # the first pass reads the weights from disk
    plain = textbook(lm, facts[: chosen.plain])
    measure(lm, facts, rows, plain)
    growth(lm, facts, chosen.growth, max(chosen.batch))


def predicted(lm, facts: Sequence[fleke.Fact]) -> torch.Tensor:
    """The edit map's predictions; the map knows no fact that is measured."""
    atlas, measured = fleke.load_facts("atlas"), set(facts)
    known = [(fact, mkv) for fact, mkv in zip(atlas, shipped_mkvs(lm, atlas), strict=True) if fact not in measured]
    return EditMap.solve(teach(lm, *zip(*known, strict=True))).predict(lm, facts)


def textbook(lm, facts: Sequence[fleke.Fact]) -> float:
    """Seconds per MKV of the plain version."""
    before = time.process_time()
    found = [optimum(lm, fact, contexts_for(lm), lm.preset.memit) for fact in tqdm(facts, leave=False)]
    seconds = (time.process_time() - before) / len(facts)
    steps, loss = mean(one.steps for one in found), mean(one.loss for one in found)
    print(f"textbook, {len(facts)} facts: {steps:.1f} steps, loss {loss:.3f}, {seconds:.2f} s per MKV")
    return seconds


def measure(lm, facts: Sequence[fleke.Fact], rows: Sequence[Row], plain: float) -> None:
    """Measure the rows, and print each when it is done; "ratio" is the textbook's time over the row's."""
    moments, prepared = fleke.second_moments(lm), prepare_evaluation(lm, facts)
    first = None
    print(f"\n{'way':<20}{HEAD}   score [interval]           harm [interval]")
    for row in rows:
        before = time.process_time()
        mkvs = fleke.compute_mkvs(lm, facts, hparams=row.hparams, starts=row.starts, batch=row.batch, keys=())
        seconds = (time.process_time() - before) / len(facts)
        with fleke.edit.trajectory(fleke.trajectories(lm, facts, mkvs), moments).applied(lm):
            found = fleke.evaluate(lm, facts, prepared=prepared)
        first = first or found
        changes = [difference(found, first, metric) for metric in ("score", "specificity")]
        length = mean(float(mkv.residual.norm() / mkv.h.norm()) for mkv in mkvs)
        print(
            f"{row.name:<20}{row.batch:5}{mean(m.steps for m in mkvs):8.1f}{mean(m.loss for m in mkvs):8.3f}"
            f"{length:9.2f}{seconds:11.3f}{plain / seconds:8.1f}{found.top1:7.3f}{found.efficacy:10.3f}"
            f"{found.paraphrase:12.3f}{found.specificity:13.3f}{found.score:7.3f}   "
            + "   ".join("{:+.3f} [{:+.3f}, {:+.3f}]".format(*change) for change in changes),
            flush=True,
        )


def growth(lm, facts: Sequence[fleke.Fact], counts: Sequence[int], batch: int) -> None:
    """Seconds of the fast variant as facts become more."""
    for count in counts:
        if count > len(facts):
            raise SystemExit(f"--growth asks for {count} facts, but there are {len(facts)}: give a larger --facts.")
        before = time.process_time()
        fleke.compute_mkvs(lm, facts[:count], hparams=lm.preset.memit.fast(), batch=batch, keys=())
        seconds = time.process_time() - before
        print(f"fast, {count:5} facts: {seconds:8.1f} s, {seconds / count:.3f} s per MKV", flush=True)


if __name__ == "__main__":
    main()
