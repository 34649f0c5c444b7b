"""Harm: what an edit changes in everything that it is not about.

Specificity asks about neighbours that a benchmark chose. Harm asks about what no fact is about, in three ways:

    perplexity  exp(mean NLL of the edited model - mean NLL of the base model) per token of held-out texts
    divergence  mean KL(base || edited) of the next-token distributions after neutral prompts, in nats
    battery     share of general questions, of those that the base model answers, that the edited model answers

Without an edit they are exactly 1, 0 and 1. `prepare_harm` measures the base model once and keeps the states that enter
the first edited layer, so `HarmReference.measure` runs only the layers above. The shipped texts, prompts and questions
are in data/harm.json (data/harm.md is its data card); C is measured on other texts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from html import escape

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.evaluation import likelihood, resampling
from fleke_lib.model import tokens
from fleke_lib.model.activations import LayerCalls, layer_calls
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.storage.files import DATA, part_of_repository, read_json

SHIPPED = DATA / "harm.json"


@dataclass(frozen=True)
class Harm:
    """What an edit changed elsewhere; each number with its 95% bootstrap interval over texts, prompts or questions."""

    perplexity: float = field(metadata={"meaning": "perplexity on held-out texts, divided by the base model's"})
    divergence: float = field(metadata={"meaning": "KL(base || edited) of the next token after neutral prompts, nats"})
    battery: float = field(metadata={"meaning": "share of the base model's right answers to general questions kept"})
    perplexity_interval: tuple[float, float]
    divergence_interval: tuple[float, float]
    battery_interval: tuple[float, float]

    def rows(self) -> list[tuple[str, float, float, float, str]]:
        """(name, value, low, high, meaning) of the three numbers."""
        return [
            (part.name, getattr(self, part.name), *getattr(self, f"{part.name}_interval"), part.metadata["meaning"])
            for part in fields(self)
            if part.metadata
        ]

    def to_dict(self) -> dict:
        """Numbers for a JSON file."""
        return asdict(self)

    def __repr__(self) -> str:
        lines = [f"{name:<22}{value:7.3f}  [{low:.3f}, {high:.3f}]" for name, value, low, high, _ in self.rows()]
        return "\n".join(["Harm (value, 95% bootstrap interval)", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td>{value:.3f}</td><td>{low:.3f} to {high:.3f}</td><td>{escape(meaning)}</td></tr>"
            for name, value, low, high, meaning in self.rows()
        )
        head = "<tr><th>harm</th><th>value</th><th>95% interval</th><th>meaning</th></tr>"
        return f"<table><caption>what the edit is not about; bootstrap</caption>{head}{rows}</table>"


@dataclass(frozen=True, eq=False)
class HarmReference:
    """The base model on texts, prompts and questions, and the states that enter the first edited layer.

    questions: those that the base model answers.
    """

    texts: tuple[str, ...] = field(repr=False)
    prompts: tuple[str, ...] = field(repr=False)
    questions: tuple[tuple[str, str], ...] = field(repr=False)
    _queries: likelihood.Prepared = field(repr=False)
    _calls: LayerCalls = field(repr=False)
    _last: Tensor = field(repr=False)
    _base: Float[Tensor, "prompts vocabulary"] = field(repr=False)

    def measure(self, lm: LanguageModel, samples: int = 1000, seed: int = 0) -> Harm:
        """Compare the model as it is now with the base model.

        Args:
            samples, seed: of the bootstrap.

        Raises:
            ValueError: the model has changed below the first edited layer since `prepare_harm`.
        """
        now = likelihood.score(lm, self._queries)
        before, n = self._queries.scores, len(self.texts)
        length = before.tokens[:n].double().numpy()
        lost = (before.log_prob[:n] - now.log_prob[:n]).double().numpy() * length
        apart = kl_divergence(self._base, _predictions(lm, self._calls, self._last)).double().numpy()
        right = now.top1[n:].double().numpy()

        def both(values: np.ndarray, weights: np.ndarray) -> tuple[float, tuple[float, float]]:
            counts = resampling.counts(len(values), samples, seed)
            return float(values.sum() / weights.sum()), resampling.interval(counts @ values / (counts @ weights))

        ratio, around = both(lost, length)
        divergence, divergence_interval = both(apart, np.ones_like(apart))
        battery, battery_interval = both(right, np.ones_like(right)) if len(right) else (np.nan, (np.nan, np.nan))
        perplexity_interval = (float(np.exp(around[0])), float(np.exp(around[1])))
        return Harm(
            float(np.exp(ratio)), divergence, battery, perplexity_interval, divergence_interval, battery_interval
        )


@torch.no_grad()
def prepare_harm(
    lm: LanguageModel,
    *,
    texts: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    questions: Sequence[tuple[str, str]] | None = None,
    below: int | None = None,
) -> HarmReference:
    """Measure the unedited model, and keep what later measurements are compared with.

    Args:
        texts: held-out texts of two words or more; the first word is given and the others are predicted.
        prompts: neutral beginnings of sentences.
        questions: (question, answer) pairs; those count whose answer's tokens are all this model's first choice.
            The defaults of all three are the shipped ones. Give your own for a model of another language.
        below: the first layer that an edit may change; the preset's first edited layer by default.

    Raises:
        ValueError: an edit is applied to the model, something is empty or too short, or the model has no layer
            `below`.
    """
    lm.check_unedited("references for harm")
    shipped = read_json(part_of_repository(SHIPPED))
    texts = tokens.listed(shipped["texts"] if texts is None else texts, "texts")
    prompts = tokens.listed(shipped["prompts"] if prompts is None else prompts, "prompts")
    pairs = [tuple(pair) for pair in (shipped["questions"] if questions is None else questions)]
    if not (texts and prompts and pairs):
        raise ValueError("texts, prompts or questions are empty: give at least one of each.")
    halves = [text.split(maxsplit=1) for text in texts]
    if short := [text for text, half in zip(texts, halves, strict=True) if len(half) < 2]:
        raise ValueError(f"the text {short[0]!r:.60} has fewer than two words: give longer texts.")
    below = lm.preset.layers[0] if below is None else below
    kept = _answered(lm, pairs)
    asked = [*halves, *kept]
    queries = likelihood.prepare(lm, *([pair[side] for pair in asked] for side in (0, 1)), below=below)
    rows = [tokens.encode_for(lm, prompt).ids for prompt in prompts]
    if () in rows:
        raise ValueError(f"prompt {rows.index(())} is empty: give the beginning of a sentence.")
    ids, mask, positions = tokens.pad(rows, tokens.filler(lm.tokenizer))
    calls, last = layer_calls(lm, ids, mask, positions, start=below), mask.sum(1) - 1
    return HarmReference(texts, prompts, kept, queries, calls, last, _predictions(lm, calls, last))


def kl_divergence(
    one: Float[Tensor, "rows vocabulary"], other: Float[Tensor, "rows vocabulary"]
) -> Float[Tensor, " rows"]:
    """`KL(one || other) = sum_i p_i (log p_i - log q_i)` of each row of log-probabilities, in nats."""
    return (one.exp() * (one - other)).where(one > -torch.inf, 0).sum(1)


def _answered(lm: LanguageModel, pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The pairs whose answer is the model's own first choice, token by token."""
    right = likelihood.score(lm, likelihood.plan(lm, *([pair[side] for pair in pairs] for side in (0, 1)))).top1
    return tuple(pair for pair, yes in zip(pairs, right.tolist(), strict=True) if yes)


@torch.no_grad()
def _predictions(lm: LanguageModel, calls: LayerCalls, last: Tensor) -> Float[Tensor, "prompts vocabulary"]:
    """Log-probabilities of the next token after each row's last token, on the CPU."""
    states = calls.run(lm)[torch.arange(len(last)), last.to(lm.device)]
    return lm.logits(states).float().log_softmax(1).cpu()
