"""A run at the scale of the FLEKE paper: one model, one data set, 8 clients, 10 slots.

    paper gpt-j-counterfact --estimate                    what it would take, counted; needs nothing but the facts
    paper gpt-j-counterfact --dry-run --to try            the whole path on a tiny random model of that architecture
    paper gpt-j-counterfact --to run --device cuda        the run itself; the same command again goes on after a stop

What it leaves in the folder: result.json, result.md, the ledgers, and the pieces that let it go on.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fleke_lib.edit.moments import SAMPLE_TEXT
from fleke_lib.facts.loading import Facts, load_facts
from fleke_lib.model import shipped
from fleke_lib.model.language_model import LanguageModel, load_model
from fleke_lib.reproduce.papers import rehearsal, results
from fleke_lib.reproduce.papers.estimates import CHARACTERS, CostEstimate, estimate
from fleke_lib.reproduce.papers.parts import check_dataset
from fleke_lib.reproduce.papers.presets import RECIPES, PaperPreset, recipe
from fleke_lib.reproduce.papers.run import Choices, count_tokens, run
from fleke_lib.storage.files import part_of_repository, user_path

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
UNTESTED = "bfloat16 halves the weights' memory; no number of this repository was computed with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `paper` understands."""
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument(
        "--facts", metavar="FILE", help="a JSON file of the data set (else the published one is fetched)"
    )
    parser.add_argument("--to", metavar="FOLDER", type=user_path, help="where everything goes (build/paper/NAME)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    parser.add_argument("--dtype", choices=TYPES, default="float32", help=UNTESTED)
    parser.add_argument("--model", metavar="FOLDER", help="a local copy of the model (else its name on the hub)")
    parser.add_argument("--limit", type=int, metavar="N", help="facts that take part (10,000, or as many as there are)")
    parser.add_argument("--lam", type=float, help="the closed form's lambda (the preset's)")
    parser.add_argument(
        "--text", metavar="FILE", type=user_path, help="text for C: JSON lines with a text each, or plain"
    )
    parser.add_argument("--flops", type=float, metavar="N", help="operations a second of the device, for the estimate")
    parser.add_argument("--estimate", action="store_true", help="say what it would take, and stop")
    parser.add_argument("--dry-run", action="store_true", help="run the whole path on a tiny random model, and stop")


def main(arguments: argparse.Namespace) -> int:
    """Estimate, rehearse or run."""
    chosen = recipe(arguments.name)
    to = (arguments.to or Path("build") / "paper" / arguments.name).resolve()
    if arguments.dry_run:
        rehearsed = rehearsal.rehearse(chosen, to, arguments.facts, arguments.device, TYPES[arguments.dtype], progress)
        print(rehearsed.read_text(encoding="utf-8"))
        return 0
    facts = load_facts(arguments.facts or chosen.dataset)
    check_dataset(facts, chosen.dataset)
    texts = read_texts(arguments.text) if arguments.text else None
    limit = min(arguments.limit or chosen.facts, len(facts))
    expected = expect(chosen, facts, limit, texts, arguments)
    print(expected, flush=True)
    if arguments.estimate:
        return 0
    lm = load(chosen, arguments.model, arguments.device, TYPES[arguments.dtype])
    text = describe(lm, arguments.text, count_tokens(lm, texts))
    progress(text)
    choices = Choices(to, limit, arguments.lam or chosen.lam, texts)
    report = results.write(run(chosen, lm, facts, choices, progress), expected, facts.source, text)
    print(report.read_text(encoding="utf-8"))
    return 0


def progress(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


def load(recipe: PaperPreset, source: str | None, device: str, dtype: torch.dtype) -> LanguageModel:
    """The recipe's model, with the recipe's preset whatever its folder is called."""
    return replace(load_model(source or recipe.model, device=device, dtype=dtype), preset=recipe.hparams)


def read_texts(path: Path) -> tuple[str, ...]:
    """Documents: a JSON object with a `text` on every line, or plain text with an empty line between two.

    Raises:
        ValueError: there is no text, or a line is not such an object.
    """
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        texts = tuple(text.strip() for text in content.split("\n\n") if text.strip())
    else:
        try:
            texts = tuple(json.loads(line)["text"] for line in content.splitlines() if line.strip())
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'{path} has a line that is not {{"text": ...}} ({error}): write one a line.') from None
    if not texts:
        raise ValueError(f"{path} holds no text: give documents, a JSON object a line or an empty line between two.")
    return texts


def describe(lm: LanguageModel, file: Path | None, tokens: int) -> str:
    """What C is measured on, and what is to be said about it."""
    source = str(file) if file else "the shipped sample text"
    said = f"C is measured on {tokens} tokens of {source}, {tokens / lm.d_mlp:.1f} times d_mlp"
    if tokens < 2 * lm.d_mlp:
        said += " (FastMEMIT finds 2 to 10 times enough: give more with --text)"
    if not file and lm.name != shipped.NAME:
        said += f"; {shipped.NAME} wrote it, and text that {lm.preset.model} was trained on or writes is better: --text"
    return said + "."


def expect(
    recipe: PaperPreset, facts: Facts, limit: int, texts: Sequence[str] | None, arguments: argparse.Namespace
) -> CostEstimate:
    """The estimate for this call."""
    letters = part_of_repository(SAMPLE_TEXT).stat().st_size if texts is None else sum(map(len, texts))
    return estimate(
        recipe,
        facts[:1000],
        limit,
        device=arguments.device,
        bytes_each=TYPES[arguments.dtype].itemsize,
        tokens=letters // CHARACTERS,
        flops=arguments.flops,
    )
