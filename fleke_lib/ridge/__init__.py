"""Linear algebra of an edit: the ridge solves and the two sums S and T. Knows no language model and no text."""

from fleke_lib.ridge.solve import LowRank, spd_solve
from fleke_lib.ridge.sums import Sums

__all__ = ["LowRank", "Sums", "spd_solve"]
