"""The linear algebra of an edit: ridge regressions and the two sums S and T. No language model and no text."""

from fleke_lib.ridge.solve import LowRank, spd_solve
from fleke_lib.ridge.sums import Sums

__all__ = ["LowRank", "Sums", "spd_solve"]
