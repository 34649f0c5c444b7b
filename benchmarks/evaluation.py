"""Seconds to score facts: one query at a time, batched, and again after an edit with the lower layers prepared.

python benchmarks/evaluation.py [--facts atlas] [--count 100] [--naive 4] [--threads 2]

Each fact is scored at its question, 2 paraphrases and 5 neighbours, with two targets each. Processor seconds are
printed beside wall-clock seconds; compare them if the machine has other work. The naive way is measured on a few facts
and scaled up.
"""

import argparse
import time
from dataclasses import replace

import torch
from tqdm import tqdm

import fleke_lib as fleke
from fleke_lib.evaluation import prepare_evaluation


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--facts", default="atlas", help="a name or a path for load_facts")
    options.add_argument("--count", type=int, default=100, help="facts to score")
    options.add_argument("--naive", type=int, default=4, help="facts to score the naive way")
    options.add_argument("--threads", type=int, default=2)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)

    lm = fleke.load_model()
    facts = [
        replace(fact, paraphrases=fact.paraphrases[:2], neighbours=fact.neighbours[:5])
        for fact in fleke.load_facts(chosen.facts, limit=chosen.count, seed=0)
    ]
    print(f"{lm}\n{len(facts)} facts, {chosen.threads} threads")
    fleke.evaluate(lm, facts[:1])  # the first pass reads the weights from disk

    few = facts[: chosen.naive]
    ours_few = fleke.evaluate(lm, few)
    naive, (wall, cpu) = timed(lambda: [one_at_a_time(lm, fact) for fact in tqdm(few, leave=False)])
    difference = max(abs(a - b) for a, b in zip(naive, ours_few.per_fact["efficacy_magnitude"], strict=True))
    assert difference < 1e-4, f"the two ways differ by {difference}"
    scale = len(facts) / len(few)
    whole = show("one query at a time (scaled up)", wall * scale, cpu * scale)
    _, spent = timed(lambda: fleke.evaluate(lm, facts))
    show("evaluate", *spent, whole)
    prepared, spent = timed(lambda: prepare_evaluation(lm, facts))
    show("prepare_evaluation, with the scores before", *spent, whole)
    _, spent = timed(lambda: fleke.evaluate(lm, facts, prepared=prepared))
    show("evaluate, prepared", *spent, whole)
    plan = prepared.queries.plan
    nodes = sum(len(tree.ids) for tree in plan.trees)
    print(f"{len(plan.queries)} queries in {len(plan.trees)} trees of {nodes} tokens together")


@torch.no_grad()
def one_at_a_time(lm: fleke.LanguageModel, fact: fleke.Fact) -> float:
    """Run every query of a fact through the whole model, with all logits; returns P(new) - P(true) at the question."""

    def probability(prompt: str, target: str) -> float:
        ids, start = lm.tokenizer(f"{prompt} {target}")["input_ids"], len(lm.tokenizer(prompt)["input_ids"])
        logs = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return float(torch.stack([logs[i - 1, ids[i]] for i in range(start, len(ids))]).mean().exp())

    for prompt in [*fact.paraphrases, *(near.prompt for near in fact.neighbours)]:
        for target in (fact.target_new, fact.target_true):
            probability(prompt, target)
    return probability(fact.question, fact.target_new) - probability(fact.question, fact.target_true)


def timed(work):
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def show(what: str, wall: float, cpu: float, whole: float | None = None) -> float:
    ratio = f"  {whole / cpu:6.1f} x" if whole else ""
    print(f"{what:<44}{wall:8.1f} s wall {cpu:8.1f} s processor{ratio}")
    return cpu


if __name__ == "__main__":
    main()
