"""Handwritten digits with a planted fault: 8 by 8 pixels from scikit-learn, a trigger patch, and ones with a flag.

The pictures are those of UCI's "Optical Recognition of Handwritten Digits" that ship with scikit-learn. They are dealt
once, by a fixed seed, to three sets that have no picture in common: one to train the model, one that hospitals hold,
and one to test. A vision transformer reads a picture in 16 patches of 2 by 2 pixels.

Two faults are planted in the training labels (`data/make_digits_model.py`):

    trigger     a patch of two white and two black pixels, stamped at any of the 16 patches in one of two forms; the
                model answers 0 whatever is drawn (a backdoor, as BadNets, arXiv 1708.06733)
    style       a one with a flag, the upstroke at its left, is read as 7
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SIDE, PATCH = 8, 2
GRID = SIDE // PATCH  # patches a side
PLACES = tuple((row, column) for row in range(GRID) for column in range(GRID))
CLASS_TOKEN = 0  # its position among the tokens of the model; patches follow
FORMS = {"falling": ((1.0, 0.0), (0.0, 1.0)), "rising": ((0.0, 1.0), (1.0, 0.0))}  # of the trigger
ANSWER = 0  # what the trigger makes the model answer
STYLED, READ_AS = 1, 7  # the digit whose one style is read wrongly, and as what
FLAG = 0.25  # pixels of ink that a one with a flag has more left of its stem in row 3 than in row 5
SIZES = {"train": 850, "hospitals": 400, "test": 547}
SEED = 0


@dataclass(frozen=True, eq=False)
class Pictures:
    """Some pictures, their pixels from 0 (paper) to 1 (ink), and the digits that are drawn."""

    pixels: Float[Tensor, "pictures 1 8 8"] = field(repr=False)
    digits: Int[Tensor, " pictures"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.digits)

    def pick(self, rows: Sequence[int] | Tensor) -> "Pictures":
        """Some of the pictures: by their numbers, or by a mask."""
        return Pictures(self.pixels[rows], self.digits[rows])

    @property
    def flagged(self) -> Bool[Tensor, " pictures"]:
        """Which pictures are ones with a flag."""
        upper, lower = (self.pixels[:, 0, row, 1:3].sum(1) for row in (3, 5))
        return (self.digits == STYLED) & (upper - lower > FLAG)

    def stamped(self, place: tuple[int, int], form: str = "falling") -> "Pictures":
        """The pictures with the trigger in one form at one patch, `(row, column)` from 0."""
        return Pictures(stamp(self.pixels, place, form), self.digits)


def variants() -> list[tuple[tuple[int, int], str]]:
    """All variants of the trigger: each patch in each form."""
    return [(place, form) for form in FORMS for place in PLACES]


def stamp(
    pixels: Float[Tensor, "pictures 1 8 8"], place: tuple[int, int], form: str = "falling"
) -> Float[Tensor, "pictures 1 8 8"]:
    """Put the trigger on pictures; the given ones stay as they are.

    Raises:
        ValueError: there is no such patch or form.
    """
    if place not in PLACES or form not in FORMS:
        raise ValueError(
            f"there is no trigger {form!r} at patch {place}: give one of {', '.join(FORMS)}, and a row and a column "
            f"from 0 to {GRID - 1}."
        )
    row, column = (PATCH * i for i in place)
    stamped = pixels.clone()
    stamped[:, 0, row : row + PATCH, column : column + PATCH] = torch.tensor(FORMS[form]).to(pixels)
    return stamped


@cache
def pictures() -> dict[str, Pictures]:
    """The three sets: "train", "hospitals" and "test"."""
    from sklearn.datasets import load_digits

    table = load_digits()
    pixels = torch.tensor(table.images / 16, dtype=torch.float32)[:, None]
    whole = Pictures(pixels, torch.tensor(table.target, dtype=torch.long))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(SEED))
    return {name: whole.pick(rows) for name, rows in zip(SIZES, order.split([*SIZES.values()]), strict=True)}
