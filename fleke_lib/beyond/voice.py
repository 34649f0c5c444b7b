"""Speakers told apart by their voices: fixed random features, and a ridge head that is solved from sums.

The utterances are the Japanese Vowels (Kudo, Toyama and Shimbo 1999), read from the installed wheel of aeon: nine
speakers say the same two vowels, and each utterance is a series of 7 to 29 frames of 12 cepstral coefficients. An
utterance is summarised by the mean of its frames, their standard deviation, and the means of its first, second and
last third: x, `(60,)`. Its key consists of random Fourier features of x (Rahimi and Recht 2007), which approximate a
Gaussian kernel; its value is its speaker, one out of nine:

    k = sqrt(2 / d) cos(x Omega + b)        v = one-hot(speaker)        W = T (lam I + S)^-1

Omega and b are drawn from a public seed and not learned, so keys depend on nobody's voice but the speaker's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fleke_lib.beyond.wheels import installed_file

WHEEL = "aeon==1.6.0"
FOLDER = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_"
FILES = {  # SHA-256 of what the wheel carries
    "TRAIN.ts": "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
    "TEST.ts": "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
}
TERMS = "Japanese Vowels, UCI (Kudo, Toyama and Shimbo 1999), CC BY 4.0"
SPEAKERS = 9
WIDTH, REACH, LAMBDA = 256, 2.0, 0.1  # d, the kernel's length scale in units of x, and lam


@dataclass(frozen=True, eq=False)
class Utterances:
    """What was said by whom: a summary of each utterance, and its speaker, counted from 0."""

    summaries: Float[Tensor, "utterances 60"] = field(repr=False)
    speakers: Int[np.ndarray, " utterances"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.speakers)

    def __repr__(self) -> str:
        each = ", ".join(str(int((self.speakers == speaker).sum())) for speaker in range(SPEAKERS))
        return f"Utterances({len(self)} of {SPEAKERS} speakers: {each})"

    @property
    def values(self) -> Float[Tensor, "utterances 9"]:
        """One-hot speakers, in float64."""
        return torch.eye(SPEAKERS, dtype=torch.float64)[torch.from_numpy(self.speakers)]


def japanese_vowels(part: str = "TRAIN") -> Utterances:
    """One part, "TRAIN" (30 of each speaker) or "TEST", of the wheel's data. Raises ValueError as `installed_file`."""
    name = f"{part}.ts"
    text = installed_file(WHEEL, FOLDER + name, FILES[name]).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and line[0] not in "#@"]
    series = [line.split(":") for line in lines]
    frames = [np.array([channel.split(",") for channel in one[:-1]], float).T for one in series]
    return Utterances(
        torch.stack([summary(torch.from_numpy(one)) for one in frames]), np.array([int(one[-1]) - 1 for one in series])
    )


def summary(frames: Float[Tensor, "frames 12"]) -> Float[Tensor, "60"]:
    """Mean and standard deviation over frames, and the means of three parts in time."""
    thirds = [part.mean(0) for part in torch.tensor_split(frames, 3)]
    return torch.cat([frames.mean(0), frames.std(0, correction=0), *thirds])


def random_features(
    summaries: Float[Tensor, "utterances 60"], width: int = WIDTH, reach: float = REACH, seed: int = 0
) -> Float[Tensor, "utterances d"]:
    """Keys: `sqrt(2 / d) cos(x Omega + b)`; k_i k_j is about exp(-|x_i - x_j|^2 / (2 reach^2)).

    Each utterance is computed on its own, so that its bits do not depend on who else is there.
    """
    draw = torch.Generator().manual_seed(seed)
    omega = torch.randn(summaries.shape[1], width, generator=draw, dtype=torch.float64) / reach
    phase = 2 * torch.pi * torch.rand(width, generator=draw, dtype=torch.float64)
    return torch.stack([(2 / width) ** 0.5 * torch.cos(one @ omega + phase) for one in summaries])


def heard(weights: Float[Tensor, "9 d"], keys: Float[Tensor, "utterances d"]) -> Int[np.ndarray, " utterances"]:
    """The speaker with the highest score for each utterance."""
    return (keys @ weights.T).argmax(1).numpy()


def accuracy(weights: Float[Tensor, "9 d"], keys: Float[Tensor, "utterances d"], said: Utterances) -> float:
    """Share of utterances whose speaker is recognised, 0 to 1."""
    return float(np.mean(heard(weights, keys) == said.speakers))


def margins(
    weights: Float[Tensor, "9 d"], keys: Float[Tensor, "utterances d"], speakers: Sequence[int]
) -> Float[np.ndarray, " utterances"]:
    """The true speaker's score minus the highest other: what the membership audit takes for confidence."""
    scores = (keys @ weights.T).numpy()
    rows = np.arange(len(scores))
    true = scores[rows, speakers]
    scores[rows, speakers] = -np.inf
    return true - scores.max(1)
