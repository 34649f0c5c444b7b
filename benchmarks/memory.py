"""A memory beside the weights at 100 to 10,000 rows: scores, bytes, and time for a token.

python -m benchmarks.memory [--facts 60] [--rows 100 480 1000 10000] [--tokens 48]

The scores are of atlas facts 111 to 590, whose MKVs ship; the closed form of the same facts is beside them. There are
480 of these facts. Further rows are fillers: their subjects are two capitalised words of the model's vocabulary, drawn
at random and put into the prompts of the facts; their keys are the model's for these texts; their residuals are those
of facts drawn at random, so that a wrong recall adds what a right one would add elsewhere. Times are of the processor,
for greedy decoding of one text with a key-value cache, with and without the memory by turns.
"""

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.functional import normalize

import fleke_lib as fleke
from fleke_lib.edit.trajectories import shareable
from fleke_lib.evaluation import prepare_evaluation
from fleke_lib.facts.prompts import bare_text, stage, up_to_cut
from fleke_lib.mkv import shipped_mkvs

REPORTED = slice(111, None)  # the threshold was chosen on the others
TOGETHER = 256  # texts in one batch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=60, help="facts that are scored, in every table")
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 480, 1000, 10_000], help="rows of the tables")
    parser.add_argument("--tokens", type=int, default=48, help="tokens that are written for a time; 0 skips the times")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)

    lm = fleke.load_model()
    facts = shareable(lm, fleke.load_facts("atlas")[REPORTED])
    scored = facts[:: max(1, len(facts) // chosen.facts)][: chosen.facts]
    facts = (*scored, *(fact for fact in facts if fact not in scored))  # the scored ones are in every table
    mkvs = shipped_mkvs(lm, facts)
    paths = fleke.trajectories(lm, facts, mkvs)
    prepared, moments = prepare_evaluation(lm, scored), fleke.second_moments(lm)
    print(f"{lm}\n{len(scored)} facts scored{'':30}efficacy  top-1  paraphrase  specificity  score")
    show("before", prepared.before)
    more = fillers(lm, facts, max(0, *(rows - len(facts) for rows in chosen.rows)))
    for rows in chosen.rows:
        known = min(max(rows, len(scored)), len(facts))
        if rows <= known:
            with fleke.edit.trajectory(paths[:known], moments).applied(lm):
                show(f"closed form, {known} facts", fleke.evaluate(lm, scored, prepared=prepared))
        table = filled(fleke.edit.memory(paths[:known]), more, rows)
        with table.applied(lm):
            found = fleke.evaluate(lm, scored, prepared=prepared)
        show(f"memory, {len(table)} rows, {table.size / 1e6:.1f} MB", found)
        if chosen.tokens:
            print(f"    a token takes {slower(lm, table, facts[0].question, chosen.tokens):.2f} times as long")


def show(what: str, found: fleke.evaluation.Evaluation) -> None:
    (least, most), (low, high) = found.interval("top1"), found.interval("score")
    print(
        f"{what:<43} {found.efficacy:9.3f} {found.top1:7.3f} {found.paraphrase:10.3f} {found.specificity:12.3f} "
        f"{found.score:8.3f}  top-1 [{least:.3f}, {most:.3f}], score [{low:.3f}, {high:.3f}]",
        flush=True,
    )


def fillers(lm: fleke.LanguageModel, facts: Sequence[fleke.Fact], count: int, seed: int = 0) -> torch.Tensor:
    """Unit keys at the first edited layer of texts about invented subjects, `(count, d_mlp)`."""
    pieces = lm.tokenizer.batch_decode([[number] for number in range(len(lm.tokenizer))])
    words = sorted({piece[1:] for piece in pieces if re.fullmatch(" [A-Z][a-z]{3,}", piece)})
    prompts = sorted({fact.prompt for fact in facts if not fact.prompt.startswith("{}")})
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(words), (count, 2), generator=generator).tolist()
    invented = [
        fleke.Fact(f"{words[one]} {words[other]}", prompts[i % len(prompts)], "new", "true")
        for i, (one, other) in enumerate(drawn)
    ]
    at, found = lm.preset.layers[0], [torch.empty(0, lm.d_mlp)]
    for start in range(0, count, TOGETHER):
        texts = [up_to_cut(bare_text(lm, fact)) for fact in invented[start : start + TOGETHER]]
        found.append(normalize(stage(lm, texts, start=at, keys=(at,), stop=at + 1).keys[at].float().cpu(), dim=1))
    return torch.cat(found)


def filled(table: fleke.edit.Memory, more: torch.Tensor, rows: int, seed: int = 0) -> fleke.edit.Memory:
    """The table with as many fillers as it takes to have `rows` rows; their values are drawn from its own."""
    more = more[: max(0, rows - len(table))]
    drawn = torch.randint(len(table), (len(more),), generator=torch.Generator().manual_seed(seed))
    return replace(table, keys=torch.cat([table.keys, more]), values=torch.cat([table.values, table.values[drawn]]))


def slower(lm: fleke.LanguageModel, table: fleke.edit.Memory, prompt: str, tokens: int, turns: int = 3) -> float:
    """Processor time for the same number of tokens with the memory, in units of the time without."""
    spent = [0.0, 0.0]
    step(lm, prompt, 2)
    for _ in range(turns):
        for which in (0, 1):
            begin = time.process_time()
            if which:
                with table.applied(lm):
                    step(lm, prompt, tokens)
            else:
                step(lm, prompt, tokens)
            spent[which] += time.process_time() - begin
    return spent[1] / spent[0]


@torch.no_grad()
def step(lm: fleke.LanguageModel, prompt: str, tokens: int) -> None:
    """Run so many single tokens after a prompt; it does not stop at the end of a text."""
    out = lm.body(input_ids=torch.tensor([lm.tokenizer(prompt).input_ids], device=lm.device), use_cache=True)
    for _ in range(tokens):
        token = lm.logits(out.last_hidden_state[:, -1:]).argmax(-1)
        out = lm.body(input_ids=token, past_key_values=out.past_key_values, use_cache=True)


if __name__ == "__main__":
    main()
