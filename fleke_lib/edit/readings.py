"""Keys and states of facts during the computation of an edit, read without writing to the model's weights.

An edit of several layers is computed from below: each layer's keys, and what is still missing at L, depend on the
changes of the layers below. `Readings` holds the states of all facts in all contexts that enter the next edited layer.
A change is applied by adding `dW k` to the projection's output. Texts end at the subject's last token, and the layers
below the first edited one run only once. Many facts have the same tokens before the subject ("The day was. The capital
of"); these run once for all of them:

    beginnings   The day was. The capital of | The day was. The author of | ...
    rows         France, Spain, ...          | Hamlet, ...

The changes also affect the beginnings, and every token above an edited layer. The edited layer itself runs once: its
keys do not depend on its own change, which only adds `dW k` to the output.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from fleke_lib.facts.contexts import context_weights
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.facts.prompts import fact_texts
from fleke_lib.model.activations import LayerCalls, Noted, Prefix, layer_calls, prefix_of
from fleke_lib.model.language_model import LanguageModel, widened
from fleke_lib.model.tokens import filler, pad
from fleke_lib.ridge.solve import LowRank

ROWS = 256  # rows in one batch
KEPT = 2**29  # bytes of what passed a layer that are kept, so that the layer runs once; the rest runs again
NOTHING = Prefix({}, {})


@dataclass(frozen=True)
class Row:
    """A fact in a context, as token ids: those before the subject, and the subject's."""

    number: int
    before: tuple[int, ...]
    subject: tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    """A batch of rows whose beginnings have the same length.

    beginnings: layer calls and current states of the tokens before the subjects; None if there are no such tokens.
    beginning: index of each row's beginning.
    rows: layer calls and current states of the subjects. last: the column of each subject's last token.
    number: each row's number, `fact * contexts + context`.
    """

    beginnings: LayerCalls | None
    beginning: Int[Tensor, " rows"]
    rows: LayerCalls
    last: Int[Tensor, " rows"]
    number: Int[Tensor, " rows"]

    def run(self, lm: LanguageModel, start: int, stop: int) -> "Chunk":
        """Run layers `start` to `stop - 1`: the chunk with the states that enter layer `stop`."""
        if self.beginnings is None:
            return self.at(self.rows.run(lm, None, start, stop))
        noted = Noted()
        before = self.beginnings.behind(noted).run(lm, None, start, stop)
        return self.at(before, self.rows.behind(noted.rows(self.beginning)).run(lm, None, start, stop))

    @property
    def hidden(self) -> tuple[Float[Tensor, "texts tokens d_model"], ...]:
        """The states of the beginnings, if there are any, and of the rows."""
        return tuple(calls.hidden for calls in (self.beginnings, self.rows) if calls)

    def at(self, *hidden: Float[Tensor, "texts tokens d_model"]) -> "Chunk":
        """The same chunk with these states of its beginnings, if there are any, and of its rows."""
        *before, after = hidden
        beginnings = replace(self.beginnings, hidden=before[0]) if before else None
        return replace(self, beginnings=beginnings, rows=replace(self.rows, hidden=after))


@dataclass(frozen=True)
class Passed:
    """A chunk that has passed the layer to edit, with its weight unchanged.

    chunk: with the states that enter the next layer.
    keys, outputs: of the layer's projection, for the beginnings (if there are any) and for the rows.
    """

    chunk: Chunk
    keys: tuple[Float[Tensor, "texts tokens d_mlp"], ...]
    outputs: tuple[Float[Tensor, "texts tokens d_model"], ...]

    @classmethod
    def of(cls, lm: LanguageModel, chunk: Chunk, layer: int) -> "Passed":
        calls = []  # of the projection: first for the beginnings, then for the rows
        hook = lm.projection(layer).register_forward_hook(lambda _, args, output: calls.append((args[0], output)))
        try:
            behind = chunk.run(lm, layer, layer + 1)
        finally:
            hook.remove()
        return cls(behind, *zip(*calls, strict=True))

    @property
    def size(self) -> int:
        """Bytes of the keys, the outputs and the states."""
        return sum(part.nbytes for part in (*self.keys, *self.outputs, *self.chunk.hidden))

    def changed(self, lm: LanguageModel, layer: int, change: LowRank) -> Chunk:
        """The chunk behind the changed projection: `dW k` is added to its output, and through the norm to the state."""
        norm = lm.mlp_norm(layer)

        def state(hidden, k, y):
            added = effect(change, k).to(y)
            return hidden + (added if norm is None else norm(y + added) - norm(y))

        parts = zip(self.chunk.hidden, self.keys, self.outputs, strict=True)
        return self.chunk.at(*(state(*part) for part in parts))

    def cut(self, rows: Float[Tensor, "rows tokens d"]) -> Float[Tensor, "rows d"]:
        """The vectors at each subject's last token."""
        return rows[torch.arange(len(self.chunk.last)), self.chunk.last]


@dataclass(frozen=True)
class Readings:
    """The states of facts between two edited layers.

    facts: number of facts. contexts: number of contexts; row number `i * contexts + c` is fact i in context c.
    layer: the layer that the states enter next. last_layer: L.
    bare, prefixed: the rows of the bare prompts, and those of all other contexts.
    """

    lm: LanguageModel
    facts: int
    contexts: int
    layer: int
    last_layer: int
    bare: tuple[Chunk, ...]
    prefixed: tuple[Chunk, ...]
    _kept: dict[int, Passed] = field(default_factory=dict, repr=False, compare=False)

    def keys(self) -> Float[Tensor, "facts d_mlp"]:
        """This layer's mean key of each fact: half the bare prompt's, half the mean of the prefixed prompts'."""
        keys = self.context_keys()
        return torch.einsum("c,fcd->fd", context_weights(self.contexts).to(keys), keys)

    def context_keys(self) -> Float[Tensor, "facts contexts d_mlp"]:
        """This layer's key of each fact in each context."""
        return self._sorted((*self.bare, *self.prefixed), lambda passed: passed.keys[-1])

    def states(self) -> Float[Tensor, "facts d_model"]:
        """The bare prompts' states after layer L at the subject's last token, with all changes so far."""
        above = self.layer + 1, self.last_layer + 1
        return self._sorted(self.bare, lambda passed: passed.chunk.run(self.lm, *above).rows.hidden)[:, 0]

    def outputs(self, layer: int) -> Float[Tensor, "facts d_model"]:
        """The outputs of `layer`'s projection at this token for the bare prompts, with all changes so far."""

        def output(passed: Passed) -> Tensor:
            if layer == self.layer:
                return passed.outputs[-1]
            below = passed.chunk.run(self.lm, self.layer + 1, layer)
            return Passed.of(self.lm, below, layer).outputs[-1]

        return self._sorted(self.bare, output)[:, 0]

    @torch.no_grad()
    def after(self, change: LowRank, up_to: int) -> "Readings":
        """The readings that enter the next edited layer, `up_to`, after this layer's projection is changed."""
        bare, prefixed = (
            tuple(
                self._passed(chunk).changed(self.lm, self.layer, change).run(self.lm, self.layer + 1, up_to)
                for chunk in chunks
            )
            for chunks in (self.bare, self.prefixed)
        )
        return replace(self, layer=up_to, bare=bare, prefixed=prefixed, _kept={})

    @torch.no_grad()
    def _passed(self, chunk: Chunk) -> Passed:
        """The chunk behind this layer; kept for the next question while all that is kept is smaller than KEPT."""
        if id(chunk) in self._kept:
            return self._kept[id(chunk)]
        passed = Passed.of(self.lm, chunk, self.layer)
        if passed.size + sum(kept.size for kept in self._kept.values()) <= KEPT:
            self._kept[id(chunk)] = passed
        return passed

    @torch.no_grad()
    def _sorted(
        self, chunks: Sequence[Chunk], vectors: Callable[[Passed], Float[Tensor, "rows tokens d"]]
    ) -> Float[Tensor, "facts contexts d"]:
        """Vectors of every row at its subject's last token, by fact and context; zeros for the chunks left out."""
        found = None
        for chunk in chunks:
            passed = self._passed(chunk)
            rows = passed.cut(vectors(passed))
            found = rows.new_zeros(self.facts * self.contexts, rows.shape[-1]) if found is None else found
            found[chunk.number] = rows
        return widened(found).unflatten(0, (self.facts, self.contexts))


@torch.no_grad()
def read(lm: LanguageModel, facts: Sequence[Fact], contexts: tuple[str, ...], layers: Sequence[int]) -> Readings:
    """Run every fact in every context up to the first of the edited `layers`. Raises ValueError for a bad layer."""
    check_list(facts)
    for layer in layers:
        lm.check_layer(layer)
    texts = [text for fact in facts for text in fact_texts(lm, fact, contexts)]
    cuts = [(text.subject[0], text.subject[1] + 1) for text in texts]
    rows = [
        Row(i, t.ids[:start], t.ids[start:end]) for i, (t, (start, end)) in enumerate(zip(texts, cuts, strict=True))
    ]
    with tqdm(total=len(rows), desc="readings", unit="text", leave=False) as bar:
        bare, prefixed = (
            tuple(
                _chunk(lm, part, layers, bar)
                for part in _parts([r for r in rows if bool(r.number % len(contexts)) == p])
            )
            for p in (False, True)
        )
    return Readings(lm, len(facts), len(contexts), layers[0], layers[-1], bare, prefixed)


def _parts(rows: Sequence[Row]) -> list[list[Row]]:
    """Batches of at most ROWS rows with beginnings of the same length; rows with the same beginning are adjacent."""
    ordered = sorted(rows, key=lambda row: (len(row.before), row.before, len(row.subject)))
    alike = [[*group] for _, group in groupby(ordered, key=lambda row: len(row.before))]
    return [group[i : i + ROWS] for group in alike for i in range(0, len(group), ROWS)]


def _chunk(lm: LanguageModel, part: Sequence[Row], layers: Sequence[int], bar: tqdm) -> Chunk:
    """One batch of rows, run up to the first edited layer."""
    ids, mask, positions = pad([row.subject for row in part], filler(lm.tokenizer))
    last = torch.tensor([len(row.subject) - 1 for row in part])
    before = [*dict.fromkeys(row.before for row in part)]
    beginning = torch.tensor([before.index(row.before) for row in part])
    bar.update(len(part))
    number, stretch = torch.tensor([row.number for row in part]), {"start": layers[0], "stop": layers[-1] + 1}
    if not before[0]:
        return Chunk(None, beginning, layer_calls(lm, ids, mask, positions, **stretch), last, number)
    own, own_mask, own_positions = pad(before, filler(lm.tokenizer))
    beginnings = layer_calls(lm, own, own_mask, own_positions, NOTHING, **stretch)
    prefix = prefix_of(lm, own, own_mask, own_positions, layers[0] + 1).rows(beginning)
    mask, positions = torch.cat([own_mask[beginning], mask], dim=1), positions + own.shape[1]
    rows = layer_calls(lm, ids, mask, positions, prefix, **stretch)
    return Chunk(beginnings, beginning, rows.behind(NOTHING), last, number)  # the base model's prefix is dropped


def effect(change: LowRank, keys: Float[Tensor, "... d_mlp"]) -> Float[Tensor, "... d_model"]:
    """`dW k` for each key, at least in float32."""
    keys = widened(keys)
    return (keys @ change.right.T.to(keys)) @ change.left.T.to(keys)


@contextmanager
def with_changes(changes: dict[nn.Module, LowRank]):
    """Add `dW k` to the outputs of projections during the block: the edited model, without a write to its weights."""

    def hook(change):
        return lambda module, args, output: output + effect(change, args[0]).to(output)

    with ExitStack() as stack:
        for module, change in changes.items():
            stack.callback(module.register_forward_hook(hook(change)).remove)
        yield
