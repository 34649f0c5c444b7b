"""Nearest neighbours by cosine; every row is compared, therefore the result is exact.

All cosines of all queries are one matrix product of unit vectors. It is computed in blocks of rows: a thousand queries
against a million rows are 4 GB of cosines, and only a few thousand of them are needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

TOGETHER = 1 << 16  # rows in one matrix product
CELLS = 1 << 25  # cosines in memory at once, 128 MB


@dataclass(frozen=True, eq=False)
class Nearest:
    """The neighbours of each query, nearest first: ids, and cosines of shape `(queries, k)`."""

    ids: list[list[str]]
    cosines: Float[Tensor, "queries k"]


class Index:
    """The rows of a matrix, by their ids.

    The matrix is not copied, and its rows are scaled to length one in place: 10^6 rows of 576 numbers take 2.3 GB, and
    a copy would double that.
    """

    def __init__(self, ids: Sequence[str], matrix: Float[Tensor, "rows d"]) -> None:
        self.ids, self.matrix = ids, matrix
        for block in matrix.split(TOGETHER):
            block /= block.norm(dim=1, keepdim=True).clamp(min=1e-30)

    def search(self, queries: Float[Tensor, "queries d"], k: int, rows: Int[Tensor, " n"] | None = None) -> Nearest:
        """The k nearest rows for each query; all rows if there are fewer than k.

        A vector of zeros has cosine 0 with every vector.

        Args:
            rows: positions of the rows to compare; all by default.

        Raises:
            ValueError: queries of another width or with a number that is not finite, or k less than 1.
        """
        if queries.ndim != 2 or (len(self.ids) and queries.shape[1] != self.matrix.shape[1]):
            raise ValueError(f"the queries are {tuple(queries.shape)}: give (queries, {self.matrix.shape[1]}).")
        if not queries.isfinite().all():
            raise ValueError("the queries hold numbers that are not finite: compute them again.")
        if k < 1:
            raise ValueError(f"k is {k}: give 1 or more.")
        queries = normalize(queries.double(), eps=1e-30).float()
        step = max(1, min(TOGETHER, CELLS // max(1, len(queries))))
        best, places = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
        for start in range(0, len(self.ids) if rows is None else len(rows), step):
            part = slice(start, start + step) if rows is None else rows[start : start + step]
            cosines, near = _greatest(queries @ self.matrix[part].T, k)
            best, kept = _greatest(torch.cat([best, cosines], 1), k)
            places = torch.cat([places, near + start], 1).gather(1, kept)
        places = places if rows is None else rows[places]
        return Nearest([[self.ids[i] for i in line] for line in places.tolist()], best)


def _greatest(cosines: Float[Tensor, "queries n"], k: int) -> tuple[Tensor, Tensor]:
    return cosines.topk(min(k, cosines.shape[1]))
