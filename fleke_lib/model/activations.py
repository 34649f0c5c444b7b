"""Reading and replacing activations, and running a part of the layers again.

Two context managers, `record` and `rewrite`, hang on a module for the length of a `with` block. `LayerCalls` is what
makes this library fast: in one ordinary forward pass it notes *how* the model calls each of its layers (masks,
positions, rotary angles: everything but the hidden state), and can then run any stretch of layers again from any hidden
state, for any selection of rows. No architecture's internals are copied, so what runs is always transformers' own code.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache

from fleke_lib.model.language_model import LanguageModel


@contextmanager
def record(inputs: Mapping[Any, nn.Module] = {}, outputs: Mapping[Any, nn.Module] = {}) -> Iterator[dict]:
    """Collect what enters and leaves modules during the block: `{name: tensor}`, the latest call's, detached."""
    seen: dict[Any, Tensor] = {}

    def enter(name):
        return lambda module, args, kwargs: seen.__setitem__(name, entering(args, kwargs).detach())

    def leave(name):
        return lambda module, args, output: seen.__setitem__(name, first(output).detach())

    with ExitStack() as stack:
        for name, module in inputs.items():
            stack.callback(module.register_forward_pre_hook(enter(name), with_kwargs=True).remove)
        for name, module in outputs.items():
            stack.callback(module.register_forward_hook(leave(name)).remove)
        yield seen


@contextmanager
def rewrite(changes: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace what modules return during the block: `{module: function of its output}`."""

    def leave(change):
        def hook(module, args, output):
            changed = change(first(output))
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    with ExitStack() as stack:
        for module, change in changes.items():
            stack.callback(module.register_forward_hook(leave(change)).remove)
        yield


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the tokens before those that run: read by the attention, never grown.

    It stands where transformers expects its cache, so that the same stretch can run again and again behind one prefix.
    """

    keys: dict[int, Float[Tensor, "rows heads tokens d_head"]]
    values: dict[int, Float[Tensor, "rows heads tokens d_head"]]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys[layer_idx], keys], -2), torch.cat([self.values[layer_idx], values], -2)

    def rows(self, index: Int[Tensor, " rows"]) -> "Prefix":
        return self.each(lambda states: states[index])

    def columns(self, index: Int[Tensor, "rows kept"]) -> "Prefix":
        """Tokens chosen and ordered anew, row by row."""

        def pick(states: Tensor) -> Tensor:
            wide = index.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
            return states.gather(2, wide)

        return self.each(pick)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Prefix":
        """Every layer's keys and values changed by one function."""
        return Prefix(*({layer: change(x) for layer, x in states.items()} for states in (self.keys, self.values)))


class Noted(Prefix):
    """An empty prefix that notes the keys and values of the tokens that run, for others to run behind them."""

    def __init__(self) -> None:
        super().__init__({}, {})

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.keys[layer_idx], self.values[layer_idx] = keys, values
        return keys, values


@dataclass(frozen=True)
class LayerCalls:
    """How the model called its layers in one forward pass.

    hidden: the state that entered layer `start`, `(rows, tokens, d_model)`.
    start: the first layer that can be run again.
    arguments: positional and named arguments of each layer's call but the hidden state, from layer `start` on.
    """

    hidden: Float[Tensor, "rows tokens d_model"]
    start: int
    arguments: tuple[tuple[tuple, dict], ...]

    def run(
        self, lm: LanguageModel, hidden: Tensor | None = None, start: int | None = None, stop: int | None = None
    ) -> Float[Tensor, "rows tokens d_model"]:
        """Run layers `start` up to, not including, `stop` (default: all above) from `hidden` (default: as noted)."""
        first_layer = self.start if start is None else start
        hidden = self.hidden if hidden is None else hidden
        for layer in range(first_layer, lm.n_layers if stop is None else stop):
            args, kwargs = self.arguments[layer - self.start]
            hidden = first(lm.layers[layer](hidden, *args, **kwargs))
        return hidden

    def rows(self, index: Int[Tensor, " rows"]) -> "LayerCalls":
        """The calls for a selection of rows; rows may repeat."""
        pick = _picker(index, len(self.hidden))
        return LayerCalls(
            self.hidden[index], self.start, tuple((_map(pick, args), _map(pick, kw)) for args, kw in self.arguments)
        )

    def behind(self, prefix: Prefix | None) -> "LayerCalls":
        """The same calls behind another prefix, which has the same rows and as many tokens."""
        swap = partial(_map, lambda value: prefix if isinstance(value, Prefix) else value)
        return LayerCalls(self.hidden, self.start, tuple((swap(args), swap(kw)) for args, kw in self.arguments))

    def from_layer(self, lm: LanguageModel, layer: int) -> "LayerCalls":
        """The same calls from a later layer on, its entering state computed now."""
        return LayerCalls(self.run(lm, stop=layer), layer, self.arguments[layer - self.start :])


@torch.no_grad()
def layer_calls(
    lm: LanguageModel,
    ids: Int[Tensor, "rows tokens"],
    mask: Int[Tensor, "rows all_tokens"] | None = None,
    positions: Int[Tensor, "rows tokens"] | None = None,
    prefix: Prefix | None = None,
    start: int = 0,
    stop: int | None = None,
) -> LayerCalls:
    """Run the model and note how it calls its layers `start` up to, not including, `stop` (default: all above).

    Layer `start` is the last one that computes; those above are called, noted and skipped.

    Args:
        ids: token ids of the rows.
        mask: 1 for a token, over the prefix and these tokens.
        positions: position of each token in its text.
        prefix: keys and values of the tokens before.
    """
    states, noted = [], []

    def note(module, args, kwargs):
        states.append(entering(args, kwargs).detach())
        noted.append((args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}))

    stop = lm.n_layers if stop is None else stop
    with ExitStack() as stack:
        for module in [*lm.layers, lm.final_norm][start : stop + 1]:  # one more: the state when there is none to run
            stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        with _skipping(lm.layers[start : start + 1], lm.layers[start + 1 : stop]), _stopping(lm, stop):
            _forward(lm, ids, mask, positions, None if prefix is None else _growing(prefix))
    frozen = [_map(lambda value: prefix if isinstance(value, Cache) else value, call) for call in noted]
    return LayerCalls(states[0], start, tuple(frozen[: stop - start]))


@torch.no_grad()
def prefix_of(
    lm: LanguageModel,
    ids: Int[Tensor, "rows tokens"],
    mask: Int[Tensor, "rows all_tokens"],
    positions: Int[Tensor, "rows tokens"],
    stop: int | None = None,
    behind: Prefix | None = None,
) -> Prefix | None:
    """Keys and values of the layers below `stop` (default: all) for these tokens; None for no tokens.

    behind: what stands before these tokens, and becomes part of the result; the mask covers both.
    """
    if ids.shape[1] == 0:
        return behind
    cache = DynamicCache() if behind is None else _growing(behind)
    with _stopping(lm, lm.n_layers if stop is None else stop):
        _forward(lm, ids, mask, positions, cache)
    pairs = [(layer.keys, layer.values) for layer in cache.layers]
    return Prefix({i: keys for i, (keys, _) in enumerate(pairs)}, {i: values for i, (_, values) in enumerate(pairs)})


def entering(args: tuple, kwargs: dict) -> Tensor:
    """The hidden state that a module is called with, by position or by name."""
    return args[0] if args else kwargs["hidden_states"]


def first(output: Any) -> Tensor:
    """The hidden state of a module's output, which is a tuple in some architectures."""
    return output[0] if isinstance(output, tuple) else output


class _Enough(Exception):
    """Ends a forward pass whose upper layers nobody needs."""


@contextmanager
def _stopping(lm: LanguageModel, stop: int) -> Iterator[None]:
    """Forward passes in the block end before layer `stop`."""

    def leave(module, args):
        raise _Enough

    handle = lm.layers[stop].register_forward_pre_hook(leave) if stop < lm.n_layers else None
    try:
        with suppress(_Enough):
            yield
    finally:
        if handle:
            handle.remove()


@contextmanager
def _skipping(below: Sequence[nn.Module], layers: Sequence[nn.Module]) -> Iterator[None]:
    """In the block `layers` return the state that they are called with, in the form in which the one below returned."""
    form: list[int] = []  # how many values stand beside the state in a tuple; none where it comes alone

    def learn(module, args, output):
        form[:] = [len(output) - 1] if isinstance(output, tuple) else []

    def skip(*args, **kwargs):
        hidden = entering(args, kwargs)
        return (hidden, *[None] * form[0]) if form else hidden

    with ExitStack() as stack:
        for layer in below:
            stack.callback(layer.register_forward_hook(learn).remove)
        for layer in layers:
            stack.callback(partial(_restore, layer, vars(layer).get("forward")))
            layer.forward = skip
        yield


def _restore(module: nn.Module, forward: Callable | None) -> None:
    """A module's own forward again, or the one that stood in for it."""
    if forward is None:
        del module.forward
    else:
        module.forward = forward


def _forward(lm: LanguageModel, ids: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Cache | None):
    move = partial(_map, lambda value: value.to(lm.device) if isinstance(value, Tensor) else value)
    return lm.body(
        **move({"input_ids": ids, "attention_mask": mask, "position_ids": positions}),
        past_key_values=cache,
        use_cache=cache is not None,
    )


def _growing(prefix: Prefix) -> DynamicCache:
    cache = DynamicCache()
    for layer, keys in prefix.keys.items():
        cache.update(keys, prefix.values[layer], layer)
    return cache


def _map(change: Callable, tree: Any) -> Any:
    """Apply `change` to every leaf of nested tuples, lists and dicts."""
    if isinstance(tree, dict):
        return {name: _map(change, value) for name, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map(change, value) for value in tree)
    return change(tree)


def _picker(index: Tensor, rows: int) -> Callable:
    """Selects rows of every tensor that has them; what is shared by all rows (size 1, or one axis) stays."""

    def pick(value):
        if isinstance(value, Prefix):
            return value.rows(index)
        has_rows = isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == rows > 1
        return value[index] if has_rows else value

    return pick
