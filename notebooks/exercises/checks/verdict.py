"""What a check reports: one sentence when the answer is right, one when it is not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

EXACT = 1e-8  # relative, for float64 and the small, well-conditioned systems of the checks


class NotYet(AssertionError):
    """Raised by a check when an answer is wrong; a notebook shows its sentence without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints instead of a traceback."""
        return [f"Not yet: {self}"]


@dataclass(frozen=True)
class Right:
    """What a check returns when an answer is right."""

    sentence: str

    def __repr__(self) -> str:
        return f"Right: {self.sentence}"


def expect(holds: bool | Tensor, otherwise: str) -> None:
    """Raise NotYet with the sentence `otherwise` unless the condition holds."""
    if not holds:
        raise NotYet(otherwise)


def call(function: Callable, *arguments: Any) -> Any:
    """What a function returns. Raises NotYet if it is not written yet."""
    try:
        return function(*arguments)
    except NotImplementedError:
        sentence = f"{_name(function)} is not written yet: put your lines where it raises NotImplementedError."
        raise NotYet(sentence) from None


def ask(function: Callable, *arguments: Any) -> Any:
    """What a function returns. Raises NotYet if that is None, or if the function changes a tensor that it is given."""
    before = [leaf.clone() for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    found = call(function, *arguments)
    after = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    same = all(torch.equal(old.nan_to_num(), new.nan_to_num()) for old, new in zip(before, after, strict=True))
    expect(same, f"{_name(function)} changes the tensors that it is given: work on new ones.")
    expect(found is not None, f"{_name(function)} returns nothing: does every path end with a return?")
    return found


def near(found: Tensor, wanted: Tensor, tolerance: float = EXACT) -> bool:
    """Whether two tensors differ by at most `tolerance` times the norm of the second."""
    return bool((found.double() - wanted.double()).norm() <= tolerance * wanted.double().norm())


def judge(
    name: str, found: Any, wanted: Tensor, mistakes: Mapping[str, Tensor], otherwise: str, tolerance: float = EXACT
) -> None:
    """Compare an answer with the right one.

    Args:
        name: how sentences name the answer.
        mistakes: the results of well-known mistakes, each under the sentence that names the mistake.
        otherwise: the sentence for any other wrong answer.
    """
    expect(isinstance(found, Tensor), f"{name} is a {type(found).__name__}: return a tensor.")
    shapes = tuple(found.shape), tuple(wanted.shape)
    expect(shapes[0] == shapes[1], f"{name} has the shape {shapes[0]}, but should have {shapes[1]}.")
    if near(found, wanted, tolerance):
        return
    for sentence, mistake in mistakes.items():
        expect(not near(found, mistake, tolerance), sentence)
    raise NotYet(otherwise)


class Largest(TorchDispatchMode):
    """Counts the numbers in the largest tensor that is created in a `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        prepared = function(*args, **(kwargs or {}))
        self.numbers = max(
            [self.numbers, *(leaf.numel() for leaf in tree_leaves(prepared) if isinstance(leaf, Tensor))]
        )
        return prepared


def _name(function: Callable) -> str:
    return getattr(function, "__name__", "your function")
