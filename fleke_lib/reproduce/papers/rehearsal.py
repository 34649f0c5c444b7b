"""A run in small: every step on a tiny random model of the same architecture, stopped on the way and taken up again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fleke_lib.facts.loading import load_facts
from fleke_lib.model.language_model import load_model
from fleke_lib.reproduce.papers import results
from fleke_lib.reproduce.papers.methods import OWNER, Found
from fleke_lib.reproduce.papers.parts import check_dataset
from fleke_lib.reproduce.papers.pieces import Progress
from fleke_lib.reproduce.papers.presets import PaperPreset
from fleke_lib.reproduce.papers.run import Choices, run
from fleke_lib.reproduce.papers.tiny import CONTEXTS, HPARAMS, write_tiny

FACTS, CLIENTS, SLOTS, TOKENS, TOGETHER = 8, 2, 2, 1000, 5
LAMBDA = 1.0  # of all edits: a random model's keys are no ordinary ones, and a published one would leave it as it is


class _Stopped(Exception):
    """What a rehearsal interrupts itself with."""


def rehearse(
    recipe: PaperPreset, to: Path, source: str | None, device: str, dtype: torch.dtype, progress: Progress
) -> Path:
    """Run the whole path, and return the path of its `result.md`.

    The run is interrupted twice, once after its first vectors and once after its first answers, and goes on from there.

    Raises:
        RuntimeError: what was on disk at an interruption was made again, or an edit changed nothing.
    """
    facts = load_facts(source or "atlas")
    if source:
        check_dataset(facts, recipe.dataset)
    asked = [replace(fact, paraphrases=fact.paraphrases[:1], neighbours=fact.neighbours[:1]) for fact in facts]
    small = replace(recipe, clients=CLIENTS, slots=SLOTS)
    lm = load_model(write_tiny(recipe.config, facts[:200], to / "model"), device=device, dtype=dtype)
    lm = replace(lm, preset=replace(recipe.hparams, memit=replace(HPARAMS, lam=LAMBDA), contexts=CONTEXTS))
    choices = Choices(to, FACTS, LAMBDA, tokens=TOKENS, moments=to / "moments", together=TOGETHER)
    for sign in ("made,", "pieces asked"):
        before = _pieces(to)
        try:
            run(small, lm, asked, choices, _until(sign, progress))
        except _Stopped:
            progress(f"stopped on purpose with {len(_pieces(to))} pieces on disk")
        if any(_pieces(to)[path] != moment for path, moment in before.items()):
            raise RuntimeError(f"an interrupted run made again what was in {to} already: its keys do not repeat.")
    outcome = run(small, lm, asked, choices, progress)
    check_edits(outcome.found)
    return results.write(outcome, None, facts.source, f"{TOKENS} tokens of the shipped sample text")


def check_edits(found: Found) -> None:
    """Raises RuntimeError where a method's models answer every question exactly as the base model does."""
    probability = {method: by[OWNER].per_fact["probability"] for method, by in found.items()}
    same = [m for m, values in probability.items() if m != "before" and np.array_equal(values, probability["before"])]
    if same:
        raise RuntimeError(f"after the edit of {same[0]!r} the model says what it said before: no weight was changed.")


def _until(sign: str, progress: Progress) -> Progress:
    """Passes on what it is told, and stops the run at the first line with this sign."""

    def stop(line: str) -> None:
        progress(line)
        if sign in line:
            raise _Stopped

    return stop


def _pieces(folder: Path) -> dict[Path, int]:
    """Every piece on disk, with its time of writing in nanoseconds."""
    return {path: path.stat().st_mtime_ns for part in ("made", "scores") for path in (folder / part).glob("*")}
