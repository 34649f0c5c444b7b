"""Seconds per MKV: the plain version, one fact at a time through the whole model, and the library's.

    python -m benchmarks.mkv [facts]

Both have the same facts, contexts and steps; their final losses are printed side by side. Then the library's time is
measured from 1 to 100 facts. Times vary from run to run: compare within one run.
"""

import sys
import time
from statistics import mean

import torch
from tqdm import tqdm

from fleke_lib.facts import contexts_for, load_facts
from fleke_lib.mkv import compute_mkvs
from fleke_lib.model import load_model
from tests.textbook.memit import optimum

GROWTH = (1, 3, 10, 30, 100)


def main(count: int) -> None:
    lm, facts = load_model(), load_facts("atlas")
    contexts, hparams = contexts_for(lm), lm.preset.memit
    print(f"{lm}, {torch.get_num_threads()} threads; layer {hparams.layer}, at most {hparams.steps} evaluations")

    compared = facts[:count]
    plain_seconds, plain = timed(lambda: [optimum(lm, f, contexts, hparams) for f in tqdm(compared, leave=False)])
    ours_seconds, ours = timed(lambda: compute_mkvs(lm, compared, contexts, hparams))
    print(f"\n{'':10}{'s per MKV':>12}{'mean loss':>12}{'mean steps':>12}")
    for name, seconds, found in (("textbook", plain_seconds, plain), ("library", ours_seconds, ours)):
        loss, steps = mean(one.loss for one in found), mean(one.steps for one in found)
        print(f"{name:10}{seconds / count:12.2f}{loss:12.4f}{steps:12.1f}")
    print(f"ratio {plain_seconds / ours_seconds:.1f} over {count} facts")

    print("\nfacts  seconds  s per MKV")
    for n in GROWTH:
        seconds, _ = timed(lambda n=n: compute_mkvs(lm, facts[:n], contexts, hparams))
        print(f"{n:5}  {seconds:7.1f}  {seconds / n:9.2f}")


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 16)
