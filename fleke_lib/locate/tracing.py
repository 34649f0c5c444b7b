"""Causal tracing: which internal states of a model the answer to a fact depends on.

The model reads the fact's question in three kinds of runs (ROME, arXiv 2202.05262, section 2):

    clean       the question as it is; P is the probability of the first token of the true answer (a mere blank before
                a number is read as a part of the question)
    corrupted   Gaussian noise on the embeddings of the subject's tokens; the probability is then P*, mostly near zero
    restored    a corrupted run in which one state, at token i and layer l, has its value from the clean run; P*(i, l)

    total effect     TE       = P - P*
    indirect effect  IE(i, l) = P*(i, l) - P*

The state is the output of a layer (`hidden`), of its MLP or of its attention. A single MLP or attention output recovers
little, so these two kinds are restored in a window of neighbouring layers. A restored hidden state can act through the
MLPs above it at the same token. To measure how much, these MLPs are severed: their outputs stay fixed at the values of
the corrupted run (ROME, figure 3; MEMIT, arXiv 2210.07229, section 4.1 and figure 3).

Two properties of causal attention make this fast. First, the noise does not reach the tokens before the subject. Their
states equal those of the clean run; restoring them changes nothing, so they do not run again. Second, a state at token
i affects no earlier token. The keys and values of these tokens are taken from the corrupted run. Only the tokens from i
on run again, through the layers from the restored one up, with all noise samples and a block of layers in one batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fleke_lib.facts.fact import Fact
from fleke_lib.model.activations import LayerCalls, Prefix, layer_calls, prefix_of, record, rewrite
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import answer_start, encode_for

KINDS = ("hidden", "mlp", "attention")
CLASSES = ("first subject", "middle subject", "last subject", "first further", "further", "last")
BLOCK = 6  # layers restored in one batch: more use a processor better, but all rows start at the block's lowest layer


@dataclass(frozen=True, eq=False)
class CausalTrace:
    """The causal trace of one fact.

    kind: "hidden", "mlp" or "attention". tokens: the question's tokens, decoded one by one, and mere blanks after it.
    subject: positions of the subject's first and last token. answer: the token whose probability is measured.
    clean, corrupted: its probability in these two runs, the latter averaged over noise samples.
    window: number of layers that are restored together, around each layer.
    severed: the part that is fixed at the corrupted run's outputs, "mlp" or "attention", or "".
    scores: the answer's probability after each restoration, `(tokens, layers)`; nan where none was requested.
    """

    kind: str
    tokens: tuple[str, ...]
    subject: tuple[int, int]
    answer: str
    clean: float
    corrupted: float
    window: int
    severed: str
    scores: Float[Tensor, "tokens layers"] = field(repr=False)

    @property
    def indirect(self) -> Float[Tensor, "tokens layers"]:
        """IE: the probability that each restoration recovers."""
        return self.scores - self.corrupted

    @property
    def total(self) -> float:
        """TE: the probability that the corruption removes."""
        return self.clean - self.corrupted

    def best(self, token: int) -> tuple[int, float]:
        """The layer at which restoring this token recovers most, and the probability after this restoration."""
        layer = int(self.scores[token].argmax())
        return layer, float(self.scores[token, layer])

    def _repr_html_(self) -> str:
        first, last = self.subject
        rows = ""
        for i, token in enumerate(self.tokens):
            layer, score = self.best(i)
            if score != score:  # nan: not requested
                continue
            name = f"<b>{escape(token)}</b>" if first <= i <= last else escape(token)
            rows += f"<tr><td>{name}</td><td>{score:.3f}</td><td>{layer if i >= first else ''}</td></tr>"
        head = (
            f"<caption>{self.kind}: P({escape(self.answer)}) is {self.clean:.3f} clean, {self.corrupted:.3f} "
            "corrupted; restored at the best layer:</caption><tr><th>token</th><th>P</th><th>layer</th></tr>"
        )
        return f"<table>{head}{rows}</table>"


@torch.no_grad()
def causal_trace(
    lm: LanguageModel,
    fact: Fact,
    kind: str = "hidden",
    *,
    samples: int = 3,
    noise: float = 3.0,
    window: int | None = None,
    sever: str = "",
    classes: Sequence[str] = CLASSES,
    seed: int = 0,
) -> CausalTrace:
    """Restore each state from the subject on, one at a time, and measure the probability that the answer recovers.

    Args:
        fact: the model reads its question; the answer is the first token of `target_true` that is not a mere blank.
            Where a tokenizer separates the blank before the answer, the model reads it too.
        kind: "hidden" (output of a layer), "mlp" or "attention" (output of this part of a layer).
        samples: number of noise samples; their probabilities are averaged. ROME uses 10.
        noise: standard deviation of the noise, in units of the standard deviation of the embeddings.
        window: number of layers restored together around each layer; by default 1 for "hidden", else a fifth of the
            model's layers, as ROME's 10 of 48.
        sever: "mlp" or "attention" fixes the output of this part, at the restored token and in all layers above the
            restored hidden state, at its value in the corrupted run.
        classes: the classes of tokens to restore, see `token_classes`; fewer classes take less time.
        seed: of the noise; for the same seed, all kinds get the same noise.

    Raises:
        ValueError: an argument is unknown or out of range, or the question is longer than the model's context.
    """
    window = _check(lm, kind, samples, noise, window, sever, classes)
    text = encode_for(lm, fact.question, fact.target_true, fact.subject_span)
    n = answer_start(lm.tokenizer, text)
    ids, answer = torch.tensor([text.ids[:n]], device=lm.device), text.ids[n]

    clean = _states(lm, ids, {kind})
    with rewrite({lm.embeddings: _corruption(lm, ids, text.subject, samples, noise, seed)}):
        corrupted = _states(lm, ids.expand(samples, -1), {sever} - {""})
    before = float(_probability(lm, corrupted.final, answer).mean())

    scores = torch.full((n, lm.n_layers), torch.nan)
    scores[: text.subject[0]] = before
    found = token_classes(n, text.subject)
    for token in sorted(token for name in classes for token in found[name]):
        rerun = _rerun(lm, ids.expand(samples, -1), corrupted.prefix, token)
        for block in torch.arange(lm.n_layers).split(BLOCK):
            start = max(0, int(block[0]) - window // 2)
            changes = _restored(lm, kind, clean, token, block, window, samples) | (
                _severed(lm, sever, corrupted, token, block) if sever else {}
            )
            rows = torch.arange(samples).repeat(len(block))
            with rewrite(changes):
                final = rerun.rows(rows).run(lm, corrupted.entering[start][rows, token:], start)
            scores[token, block] = _probability(lm, final, answer).view(-1, samples).mean(1).cpu()
    tokens = tuple(lm.tokenizer.decode([i]) for i in text.ids[:n])
    whole = float(_probability(lm, clean.final, answer))
    return CausalTrace(kind, tokens, text.subject, lm.tokenizer.decode([answer]), whole, before, window, sever, scores)


def token_classes(tokens: int, subject: tuple[int, int]) -> dict[str, list[int]]:
    """Positions of the tokens of each class; every token from the subject on belongs to exactly one class.

    The only token of a one-token subject is "last subject". The question's last token is "last", unless it belongs to
    the subject.
    """
    first, last = subject
    found = {name: [] for name in CLASSES}
    for token in range(first, tokens):
        if token <= last:
            name = "last subject" if token == last else "first subject" if token == first else "middle subject"
        else:
            name = "last" if token == tokens - 1 else "first further" if token == last + 1 else "further"
        found[name].append(token)
    return found


def default_window(kind: str, n_layers: int) -> int:
    """The default number of layers that are restored together.

    One layer for hidden states, which contain the results of all layers below; a fifth of the layers for MLP or
    attention outputs, which contain only their own layer's.
    """
    return 1 if kind == "hidden" else max(1, round(n_layers / 5))


def _module(lm: LanguageModel, kind: str, layer: int) -> nn.Module:
    """The module whose output is the state of this kind at a layer."""
    return {"hidden": lm.layers.__getitem__, "mlp": lm.projection, "attention": lm.attention_out}[kind](layer)


@dataclass(frozen=True)
class _States:
    """One run: the input of every layer, the outputs of parts, the last layer's output, and the keys and values."""

    entering: dict[int, Float[Tensor, "rows tokens d_model"]]
    parts: dict[tuple[str, int], Float[Tensor, "rows tokens d_model"]]
    final: Float[Tensor, "rows tokens d_model"]
    prefix: Prefix


def _states(lm: LanguageModel, ids: Int[Tensor, "rows tokens"], kinds: set[str]) -> _States:
    parts = {(kind, layer): _module(lm, kind, layer) for kind in kinds for layer in range(lm.n_layers)}
    layers = dict(enumerate(lm.layers))
    with record(inputs=layers, outputs={"final": lm.layers[-1]}) as passed, record(outputs=parts) as returned:
        prefix = prefix_of(lm, ids, None, torch.arange(ids.shape[1])[None])
    return _States(passed, returned, passed.pop("final"), prefix)


def _corruption(lm: LanguageModel, ids: Tensor, subject: tuple[int, int], samples: int, noise: float, seed: int):
    """A function that adds the noise to the embeddings' output at the subject's tokens."""
    first, last = subject
    weight = lm.embeddings.weight
    scale = lm.embeddings(ids).std() / weight[ids].std()  # not 1 for Gemma-3, which multiplies its embeddings
    shape = (samples, last + 1 - first, lm.d_model)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(weight)

    def corrupt(embedded):
        embedded = embedded.clone()
        embedded[:, first : last + 1] += noise * scale * weight.std() * drawn
        return embedded

    return corrupt


def _rerun(lm: LanguageModel, ids: Int[Tensor, "rows tokens"], prefix: Prefix, token: int) -> LayerCalls:
    """How the model calls its layers for the tokens from `token` on, after the corrupted run's keys and values."""
    positions = torch.arange(ids.shape[1])[None]
    before = prefix.each(lambda states: states[:, :, :token])
    return layer_calls(lm, ids[:, token:], None, positions[:, token:], before if token else None)


Change = Callable[[Tensor], Tensor]


def _restored(
    lm: LanguageModel, kind: str, clean: _States, token: int, block: Int[Tensor, " block"], window: int, samples: int
) -> Mapping[nn.Module, Change]:
    """Output changes that restore clean states: for each layer of the block, in its rows and the window around it."""
    lowest = block - window // 2
    changes = {}
    for layer in range(max(0, int(lowest[0])), min(lm.n_layers, int(lowest[-1]) + window)):
        here = (lowest <= layer) & (layer < lowest + window)
        state = clean.parts[kind, layer][:, token].expand(samples, -1)
        changes[_module(lm, kind, layer)] = _first_token_becomes(state, here)
    return changes


def _severed(
    lm: LanguageModel, kind: str, corrupted: _States, token: int, block: Int[Tensor, " block"]
) -> Mapping[nn.Module, Change]:
    """Output changes that fix a part at the corrupted run: for each layer of the block, in its rows and above it."""
    return {
        _module(lm, kind, layer): _first_token_becomes(corrupted.parts[kind, layer][:, token], block < layer)
        for layer in range(int(block[0]) + 1, lm.n_layers)
    }


def _first_token_becomes(state: Float[Tensor, "samples d_model"], here: Bool[Tensor, " block"]) -> Change:
    """A function that replaces the first token's state in some layers' rows; a layer has one row per noise sample."""
    rows = here.repeat_interleave(len(state))[:, None].to(state.device)
    states = state.repeat(len(here), 1)
    return lambda output: torch.cat([torch.where(rows, states, output[:, 0])[:, None], output[:, 1:]], 1)


def _probability(lm: LanguageModel, final: Float[Tensor, "rows tokens d_model"], answer: int) -> Tensor:
    return lm.logits(final[:, -1]).float().softmax(-1)[:, answer]


def _check(
    lm: LanguageModel, kind: str, samples: int, noise: float, window: int | None, sever: str, classes: Sequence[str]
) -> int:
    """The window to use. Raises ValueError with the wrong argument and its allowed values."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: give one of {', '.join(KINDS)}.")
    if sever and (kind != "hidden" or sever not in KINDS[1:]):
        raise ValueError(f"sever is {sever!r} and kind {kind!r}: give 'mlp' or 'attention', with kind 'hidden'.")
    if unknown := set(classes) - set(CLASSES):
        raise ValueError(f"classes is {classes!r}, with {unknown.pop()!r}: give some of {', '.join(CLASSES)}.")
    window = default_window(kind, lm.n_layers) if window is None else window
    if not 1 <= window <= lm.n_layers:
        raise ValueError(f"window is {window}: give a number of layers from 1 to {lm.n_layers}.")
    if samples < 1:
        raise ValueError(f"samples is {samples}: give at least one sample of the noise.")
    if noise < 0:
        raise ValueError(f"noise is {noise}: give standard deviations, 0 or more.")
    return window
