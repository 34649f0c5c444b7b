"""Reading and replacing activations, and running some of the layers again.

Two context managers, `record` and `rewrite`, register forward hooks on modules for the length of a `with` block.
`LayerCalls` makes this library fast. One ordinary forward pass records *how* the model calls each of its layers (masks,
positions, rotary angles: all arguments except the hidden state). Any range of layers can then run again, from any
hidden state and for any selection of rows. It always runs transformers' own code; no architecture is reimplemented.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn

from fleke_lib.model.language_model import LanguageModel


@contextmanager
def record(inputs: Mapping[Any, nn.Module] = {}, outputs: Mapping[Any, nn.Module] = {}) -> Iterator[dict]:
    """Record inputs and outputs of named modules during the block; yields `{name: latest call's tensor, detached}`."""
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
    """Replace the outputs of modules during the block: `{module: function from its output to the new output}`."""

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
    """Attention keys and values of the tokens before those that run. Running layers reads them and never appends.

    A `Prefix` takes the place of transformers' cache; the same layers can therefore run many times after one prefix.
    """

    keys: dict[int, Float[Tensor, "rows heads tokens d_head"]]
    values: dict[int, Float[Tensor, "rows heads tokens d_head"]]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys[layer_idx], keys], -2), torch.cat([self.values[layer_idx], values], -2)

    def rows(self, index: Int[Tensor, " rows"]) -> "Prefix":
        """A selection of rows; rows may repeat."""
        return self.each(lambda states: states[index])

    def columns(self, index: Int[Tensor, "rows kept"]) -> "Prefix":
        """Select and reorder the tokens of each row."""

        def pick(states: Tensor) -> Tensor:
            wide = index.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
            return states.gather(2, wide)

        return self.each(pick)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Prefix":
        """Apply one function to every layer's keys and values."""
        return Prefix(*({layer: change(x) for layer, x in states.items()} for states in (self.keys, self.values)))


class Noted(Prefix):
    """An empty prefix that records the keys and values of the tokens that run; later tokens can then run after them."""

    def __init__(self) -> None:
        super().__init__({}, {})

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.keys[layer_idx], self.values[layer_idx] = keys, values
        return keys, values


@dataclass(frozen=True)
class LayerCalls:
    """How the model called its layers in one forward pass.

    hidden: the state that entered layer `start`, `(rows, tokens, d_model)`.
    start: the first layer that can run again.
    arguments: positional and named arguments of each layer's call except the hidden state, from layer `start` on.
    """

    hidden: Float[Tensor, "rows tokens d_model"]
    start: int
    arguments: tuple[tuple[tuple, dict], ...]

    def run(
        self, lm: LanguageModel, hidden: Tensor | None = None, start: int | None = None, stop: int | None = None
    ) -> Float[Tensor, "rows tokens d_model"]:
        """Run layers `start` to `stop - 1` (default: all recorded ones) on `hidden` (default: the recorded state)."""
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
        """The same calls after another prefix, with the same rows and the same number of tokens."""
        swap = partial(_map, lambda value: prefix if isinstance(value, Prefix) else value)
        return LayerCalls(self.hidden, self.start, tuple((swap(args), swap(kw)) for args, kw in self.arguments))

    def from_layer(self, lm: LanguageModel, layer: int) -> "LayerCalls":
        """The same calls from a later layer on; the state that enters this layer is computed now."""
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
    """Run the model and record how it calls layers `start` to `stop - 1` (default: all from `start` on).

    Layer `start` is the last one that computes. The layers above it return their input; only their calls are recorded.

    Args:
        ids: token ids of the rows.
        mask: 1 for a token and 0 for padding, over the prefix and these tokens; None if nothing is padded.
        positions: position of each token in its text.
        prefix: keys and values of the tokens before these.
    """
    states, noted = [], []

    def note(module, args, kwargs):
        states.append(entering(args, kwargs).detach())
        noted.append((args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}))

    stop = lm.n_layers if stop is None else stop
    with ExitStack() as stack:
        for module in [*lm.layers, lm.final_norm][start : stop + 1]:  # one more, for the state if start equals stop
            stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        with _skipping(lm.layers[start : start + 1], lm.layers[start + 1 : stop]), _stopping(lm, stop):
            _forward(lm, ids, mask, positions, None if prefix is None else _growing(prefix))
    frozen = [_map(lambda value: prefix if isinstance(value, transformers.Cache) else value, call) for call in noted]
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
    """Keys and values of these tokens in the layers below `stop` (default: all); `behind` if there are no tokens.

    behind: the prefix that these tokens follow; it becomes part of the result, and the mask covers both.
    """
    if ids.shape[1] == 0:
        return behind
    cache = transformers.DynamicCache() if behind is None else _growing(behind)
    with _stopping(lm, lm.n_layers if stop is None else stop):
        _forward(lm, ids, mask, positions, cache)
    pairs = [(layer.keys, layer.values) for layer in cache.layers]
    return Prefix({i: keys for i, (keys, _) in enumerate(pairs)}, {i: values for i, (_, values) in enumerate(pairs)})


def entering(args: tuple, kwargs: dict) -> Tensor:
    """The hidden state among a module's arguments, positional or named."""
    return args[0] if args else kwargs["hidden_states"]


def first(output: Any) -> Tensor:
    """The hidden state in a module's output, which is a tuple in some architectures."""
    return output[0] if isinstance(output, tuple) else output


class _Enough(Exception):
    """Ends a forward pass whose upper layers are not needed."""


@contextmanager
def _stopping(lm: LanguageModel, stop: int) -> Iterator[None]:
    """End forward passes in the block before layer `stop`."""

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
    """During the block, `layers` return their input state, in the output format of the layer in `below`."""
    form: list[int] = []  # how many values follow the state in the output tuple; empty if the output is a tensor

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
    """Restore a module's `forward`: the instance attribute that it had before, or (None) the method of its class."""
    if forward is None:
        del module.forward
    else:
        module.forward = forward


def _forward(
    lm: LanguageModel, ids: Tensor, mask: Tensor | None, positions: Tensor | None, cache: "transformers.Cache | None"
):
    move = partial(_map, lambda value: value.to(lm.device) if isinstance(value, Tensor) else value)
    return lm.body(
        **move({"input_ids": ids, "attention_mask": mask, "position_ids": positions}),
        past_key_values=cache,
        use_cache=cache is not None,
    )


def _growing(prefix: Prefix) -> "transformers.DynamicCache":
    cache = transformers.DynamicCache()
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
    """A function that selects rows of a tensor; tensors that all rows share (size 1, or one axis) stay unchanged.

    What several layers are called with, like the prefix, is selected from once.
    """
    known: dict[int, Any] = {}

    def pick(value):
        if id(value) not in known:
            has_rows = isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == rows > 1
            picked = value[index] if has_rows else value
            known[id(value)] = value.rows(index) if isinstance(value, Prefix) else picked
        return known[id(value)]

    return pick
