"""Texts that begin alike, in trees: what they share is there once, and runs once.

A tree is one row for the model: its nodes in an order in which parents come first, the depth of a node as its position,
and an attention mask that lets it see its ancestors and itself only. In a causal model every node's state then is what
it would be in its text alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """Texts that begin alike: each node is a token behind its parent (-1: none), which stands earlier in the tree."""

    ids: tuple[int, ...]
    parents: tuple[int, ...]

    @property
    def depths(self) -> list[int]:
        """Position of each token in its text."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        return depths

    def mask(self, dtype: torch.dtype) -> Float[Tensor, "1 1 nodes nodes"] | None:
        """Added to the attention: 0 from a node to its ancestors and itself, else the least number; None: one text."""
        if self.parents == tuple(range(-1, len(self.ids) - 1)):
            return None
        sees = torch.eye(len(self.ids), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[None, None]


Place = tuple[int, tuple[int, ...]]  # a tree, and the nodes of a text in it


def grow(
    texts: Iterable[tuple[int, ...]], size: int, window: float = float("inf")
) -> tuple[list[Tree], dict[tuple[int, ...], Place]]:
    """Trees of up to `size` nodes, and where in them each text is.

    In lexicographic order, what a text shares with any earlier one it shares with the one just before. A text longer
    than the model's attention window is a tree of its own, which needs no mask but the model's.
    """
    trees, places = [], {}
    ids, parents, path, before = [], [], (), ()
    for text in sorted(texts):
        shared = next((i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), len(before))
        if ids and (len(ids) + len(text) - shared > size or max(len(text), len(before)) > window):
            trees.append(Tree(tuple(ids), tuple(parents)))
            ids, parents, path, shared = [], [], (), 0
        path = (*path[:shared], *range(len(ids), len(ids) + len(text) - shared))
        ids += text[shared:]
        parents += [path[i - 1] if i else -1 for i in range(shared, len(text))]
        places[text], before = (len(trees), path), text
    return [*trees, Tree(tuple(ids), tuple(parents))] if ids else trees, places
