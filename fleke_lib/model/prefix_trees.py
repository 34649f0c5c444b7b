"""Prefix trees: texts with a common beginning are stored in one tree, and the common tokens run only once.

The model receives a tree as one row: the nodes, parents before children; the depth of each node as its position; and an
attention mask with which a node attends only to its ancestors and itself. In a causal model every node then has the
same state as if its text ran alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """Texts with a common beginning. Each node is one token; its parent (-1: none) comes earlier in the lists."""

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
        """The additive attention mask: 0 from a node to its ancestors and itself, else the least number of `dtype`.

        None if the tree is a single text, for which the model's own causal mask is right.
        """
        if self.parents == tuple(range(-1, len(self.ids) - 1)):
            return None
        sees = torch.eye(len(self.ids), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[None, None]


Place = tuple[int, tuple[int, ...]]  # a tree's number, and the nodes of a text in it


def grow(
    texts: Iterable[tuple[int, ...]], size: int, window: float = float("inf")
) -> tuple[list[Tree], dict[tuple[int, ...], Place]]:
    """Put texts into trees of up to `size` nodes; also returns the place of each text.

    The texts are sorted. In lexicographic order, the longest beginning that a text shares with any earlier text is the
    one that it shares with the text just before it. A text longer than the attention window `window` becomes a tree of
    its own, which needs only the model's own mask.
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
