"""What a run leaves: `result.json` with everything, `result.md` to read, and the ledger of each federation."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from fleke_lib.evaluation.results import Evaluation
from fleke_lib.reproduce.papers.estimates import CostEstimate
from fleke_lib.reproduce.papers.pieces import asks, digest
from fleke_lib.reproduce.papers.run import SEED, PaperResult
from fleke_lib.storage.files import write_json, write_text

COLUMNS = {
    "counterfact": ("efficacy", "paraphrase", "specificity", "score", "top1", "says"),
    "zsre": ("edit_accuracy", "paraphrase_accuracy", "neighbour_accuracy", "efficacy", "top1", "says"),
}
PACKAGES = ("fleke", "torch", "transformers", "numpy", "scikit-learn")
CAVEATS = (
    "Intervals are 95% bootstrap intervals over facts; the edits are not repeated, and facts of one relation are not "
    "independent, so that they are too narrow.",
    "`says` is free decoding: the text that the model writes begins with the new target, with nothing of it given.",
    "The closed form's lambda is tuned for the default model only; for another it is MEMIT's published one, untuned.",
    "No number of the FLEKE paper's tables is shown here: its clients re-edit with text, its embeddings of questions "
    "are another encoder's, and its fine print differs in more places.",
)


def write(outcome: PaperResult, expected: CostEstimate | None, source: str, text: str) -> Path:
    """Write the results into the run's folder, and return the path of `result.md`.

    Args:
        expected: what was estimated before, if it was. source: where the facts came from. text: what C was measured on.
    """
    folder = outcome.choices.to
    result = as_dict(outcome, expected, source, text)
    for rule, run in outcome.runs.items():
        run.ledger.save(folder / f"ledger-{rule.replace(' ', '-')}.jsonl")
    write_json(folder / "result.json", result)
    return write_text(folder / "result.md", as_markdown(outcome, result))


def as_dict(outcome: PaperResult, expected: CostEstimate | None, source: str, text: str) -> dict:
    """Everything that a reader needs who wants to make it again, and the table."""
    lm, recipe, parts = outcome.lm, outcome.recipe, outcome.parts
    facts = [fact for part in parts for fact in part.facts]
    return {
        "run": recipe.name,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": lm.name,
            "fingerprint": lm.fingerprint(lm.preset.layers),
            "dtype": str(lm.model.dtype),
            "preset": lm.preset.model,
            "layers": lm.preset.layers,
            "contexts": lm.preset.contexts,
            "second moments on": text,
        },
        "facts": {
            "source": source,
            "sha256": digest([asks(fact) for fact in facts]),
            "taking part": len(facts),
            "left out": {
                "questions that occur twice": outcome.chosen.repeated,
                "subject is the first token": outcome.chosen.not_shareable,
                "refused at admission": dict(outcome.refused),
            },
        },
        "federation": {
            "clients": {part.name: len(part.facts) for part in parts},
            "slots": len(parts[0].slots),
            "asked for": {"clients": recipe.clients, "slots": recipe.slots, "tau": recipe.tau},
            "lambda": outcome.choices.lam,
            "adoptions": {rule: len(run.ledger.select("adopted")) for rule, run in outcome.runs.items()},
            "bytes": {
                rule: {way: int(run.ledger.total(way)) for way in ("sent", "received")}
                for rule, run in outcome.runs.items()
            },
        },
        "seeds": {"contexts": SEED, "clusters": SEED, "bootstrap": 0},
        "versions": {package: version(package) for package in PACKAGES} | {"python": platform.python_version()},
        "machine": {"device": _device(lm.device), "threads": torch.get_num_threads(), "platform": platform.platform()},
        "seconds": {step: round(value, 2) for step, value in outcome.seconds.items()},
        "estimate": expected and expected.as_dict(),
        "table": {method: {who: _metrics(e) for who, e in by.items()} for method, by in outcome.found.items()},
    }


def as_markdown(outcome: PaperResult, result: Mapping) -> str:
    """The table, and around it what one must know to read it."""
    recipe, facts, left_out = outcome.recipe, result["facts"], result["facts"]["left out"]
    columns = COLUMNS[recipe.dataset]
    lines = [
        f"# {recipe.name}",
        "",
        f"{result['model']['name']} ({result['model']['dtype']}, {result['machine']['device']}), "
        f"{facts['taking part']} facts of {facts['source']}, {len(outcome.parts)} clients, "
        f"{len(outcome.parts[0].slots)} slots, tau {recipe.tau}, lambda {outcome.choices.lam:g}. "
        f"Left out: {left_out['questions that occur twice']} repeated questions, "
        f"{left_out['subject is the first token']} facts whose subject is the text's first token, "
        f"{len(outcome.refused)} refused at admission.",
        "",
    ]
    for who in next(iter(outcome.found.values())):
        lines += [f"Each fact is {who}:", "", f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {method} | {_row(by[who], columns)} |" for method, by in outcome.found.items()]
        lines += [""]
    adopted = ", ".join(f"{rule} {count}" for rule, count in result["federation"]["adoptions"].items())
    lines += [f"Adoptions: {adopted}.", "", *CAVEATS, "", "| step | seconds |", "|---|---|"]
    lines += [f"| {step} | {value:.1f} |" for step, value in result["seconds"].items()]
    return "\n".join(lines) + "\n"


def _metrics(evaluation: Evaluation) -> dict:
    found = evaluation.to_dict()
    return {"facts": found["facts"], **found["metrics"]}


def _row(evaluation: Evaluation, columns: tuple[str, ...]) -> str:
    known = {name: f"{mean:.3f} [{low:.3f}, {high:.3f}]" for name, mean, low, high in evaluation.rows()}
    return " | ".join(known.get(name, "none to measure") for name in columns)


def _device(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.processor()}"
    return name.strip()
