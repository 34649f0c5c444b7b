"""Fixed point: real numbers as integers modulo 2^64, which add up exactly and in any order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FixedPoint:
    """How real numbers become integers: `round(x * 2^bits)`, modulo 2^64. All clients agree on it beforehand.

    largest: of what size a client's numbers may be.
    clients: number of vectors that add up.

    Raises:
        ValueError: numbers of this size leave no bits.
    """

    largest: float
    clients: int

    def __post_init__(self) -> None:
        if not 0 < self.largest < 2**62 / self.clients:
            raise ValueError(
                f"numbers up to {self.largest} of {self.clients} clients do not fit into 64 bits: rescale."
            )

    @property
    def bits(self) -> int:
        """The greatest number of binary places with which no total overflows."""
        return int(np.floor(np.log2(2.0**63 / (self.clients * self.largest)))) - 1

    def encode(self, numbers: NDArray[np.float64]) -> NDArray[np.uint64]:
        """Integers modulo 2^64. Raises ValueError for a number that is not finite, or larger than was agreed on."""
        most = float(np.abs(numbers).max(initial=0.0))
        if not most <= self.largest:
            raise ValueError(
                f"a number of size {most:.4g} overflows the fixed point, which was agreed on for {self.largest:.4g} at "
                "most: agree on a larger bound."
            )
        return np.rint(numbers * 2.0**self.bits).astype(np.int64).view(np.uint64)

    def decode(self, total: NDArray[np.uint64]) -> NDArray[np.float64]:
        """The real numbers of a total."""
        return total.view(np.int64).astype(np.float64) * 2.0**-self.bits
