"""Which subject is a packet about, and which words stand before it?

The attacker sees packets: h, and the mean key at the first edited layer. It knows a list of candidate subjects, and
guesses beginnings of prompts; it asks nobody anything. `dictionary` computes what each candidate would show behind a
few beginnings, and `subject_scores` compares. No beginning needs to be the right one: the subject's own tokens
dominate. With the template known, its beginning is given instead.

`read_prompts` goes on: it runs the best candidates behind the beginnings of public templates. The right text gives h up
to the rounding of 16 bits, a relative distance of about 2e-4. A match within `CERTAIN` therefore counts as proved, and
where there is none the attacker knows that as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.privacy.attacks.public import Views, views

BEGINNINGS = ("", "The ", "The story of ", "Everyone knows that ")
CERTAIN = 2e-3  # |h - h'| / |h| up to which a guess counts as proved
MANY = 20  # packets whose own mean is worth subtracting


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Candidate subjects, and the views of each behind each beginning."""

    subjects: tuple[str, ...]
    beginnings: tuple[str, ...]
    views: tuple[Views, ...]

    @property
    def keys(self) -> Float[Tensor, "beginnings candidates d_mlp"]:
        """The keys of all candidates at the first edited layer."""
        return torch.stack([each.key for each in self.views])


@dataclass(frozen=True)
class Prompt:
    """A guess of a prompt up to its subject. distance: |h - h'| / |h| of the packet's h from the guess's."""

    subject: str
    beginning: str
    distance: float

    @property
    def certain(self) -> bool:
        return self.distance <= CERTAIN


def dictionary(
    lm: LanguageModel, subjects: Sequence[str], layers: Sequence[int], beginnings: Sequence[str] = BEGINNINGS
) -> Dictionary:
    """The views of all candidate subjects behind all beginnings: one pass of the lower layers for each pair."""
    each = tuple(views(lm, [before] * len(subjects), subjects, layers) for before in beginnings)
    return Dictionary(tuple(subjects), tuple(beginnings), each)


def seen(packets: Sequence[Packet]) -> Views:
    """The views that packets show. The mean key stands for the bare prompt's key, which has half of its weight."""
    first = packets[0].layers[0]
    return Views(torch.stack([one.h for one in packets]), torch.stack([one.means[first] for one in packets]))


def subject_scores(shown: Views, known: Dictionary) -> Float[Tensor, "packets candidates"]:
    """The cosine of h plus the cosine of the key, both centred; the best over the beginnings.

    Packets are centred by their own mean where there are enough of them, since their prompts have a mean of their own;
    otherwise by the candidates'.
    """
    total = 0
    for name in ("h", "key"):
        ours, theirs = getattr(shown, name).double(), [getattr(each, name).double() for each in known.views]
        centre = ours.mean(0) if len(ours) >= MANY else torch.stack(theirs).mean((0, 1))
        unit = normalize(ours - centre, dim=1)
        total = total + torch.stack([unit @ normalize(rows - rows.mean(0), dim=1).T for rows in theirs]).amax(0)
    return total


def centroids(
    lm: LanguageModel, beginnings: Sequence[str], subjects: Sequence[str], layers: Sequence[int]
) -> Float[Tensor, "beginnings d_model"]:
    """The mean h behind each beginning, over a few public subjects."""
    pairs = [(before, subject) for before in beginnings for subject in subjects]
    found = views(lm, [before for before, _ in pairs], [subject for _, subject in pairs], layers)
    return found.h.unflatten(0, (len(beginnings), len(subjects))).mean(1)


def read_prompts(
    lm: LanguageModel,
    packets: Sequence[Packet],
    scores: Float[Tensor, "packets candidates"],
    subjects: Sequence[str],
    beginnings: Sequence[str],
    centres: Float[Tensor, "beginnings d_model"],
    *,
    best: int = 20,
    tried: int = 3,
) -> list[Prompt]:
    """The best guess of each packet's prompt up to the subject; see `Prompt.certain`.

    Args:
        scores: of the candidates, from `subject_scores`; the `best` ones are tried.
        beginnings: of public templates. centres: from `centroids`; the `tried` nearest beginnings are tried.
    """
    h = torch.stack([packet.h for packet in packets])
    near = torch.cdist(h.double(), centres.double()).topk(min(tried, len(beginnings)), largest=False).indices
    likely: Int[Tensor, "packets best"] = scores.topk(min(best, len(subjects)), dim=1).indices
    tries = [
        (beginnings[b], subjects[s]) for i in range(len(packets)) for b in near[i].tolist() for s in likely[i].tolist()
    ]
    distinct = list(dict.fromkeys(tries))
    found = views(lm, [b for b, _ in distinct], [s for _, s in distinct], packets[0].layers).h
    place = {pair: row for row, pair in enumerate(distinct)}
    rows = torch.tensor([place[pair] for pair in tries]).unflatten(0, (len(packets), -1))
    far = (found[rows] - h[:, None]).norm(dim=-1) / h.norm(dim=1, keepdim=True)
    distance, which = far.min(1)
    return [Prompt(*reversed(distinct[int(rows[i, which[i]])]), float(distance[i])) for i in range(len(packets))]
