"""Do related facts have similar vectors, and does a policy find them? Measured on vectors alone, without a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fleke_lib.facts.fact import Fact
from fleke_lib.federation.partition import Part
from fleke_lib.federation.retrieval import Policy, Retrieval, cosines, precision_recall, represent
from fleke_lib.mkv.mkv import Mkv


@dataclass(frozen=True, eq=False)
class Separation:
    """Cosines of all pairs of vectors, of one label and of two.

    auc: the chance that a pair of one label is more similar than a pair of two; 0.5 is no separation.
    nearest: share of vectors whose nearest other has their label.
    """

    within: Float[Tensor, " pairs"] = field(repr=False)
    between: Float[Tensor, " pairs"] = field(repr=False)
    auc: float
    nearest: float

    def over(self, tau: float) -> tuple[float, float]:
        """Shares of pairs with a cosine over tau: of one label, of two."""
        return float((self.within > tau).float().mean()), float((self.between > tau).float().mean())


def separation(vectors: Float[Tensor, "facts d"], labels: Sequence[str]) -> Separation:
    """How well the cosines of `vectors` tell pairs of one label from pairs of two."""
    cosine = cosines(vectors, vectors)
    codes = torch.tensor([sorted(set(labels)).index(label) for label in labels])
    same, pairs = codes[:, None] == codes, torch.triu(torch.ones_like(cosine, dtype=torch.bool), 1)
    within, between = cosine[same & pairs], cosine[~same & pairs]
    truth = torch.cat([torch.ones_like(within), torch.zeros_like(between)])
    auc = roc_auc_score(truth.numpy(), torch.cat([within, between]).numpy())
    nearest = cosine.fill_diagonal_(-2).argmax(1)
    return Separation(within, between, float(auc), float((codes[nearest] == codes).float().mean()))


def found_by(
    policy: Policy, parts: Sequence[Part], mkvs: Mapping[Fact, Mkv], representation: str = "centred"
) -> Retrieval:
    """What clients would adopt by a policy once all is published, against what is relevant to them; counts of all.

    Each client compares its own facts' vectors with those of all facts that others hold and it does not.
    """
    counts = []
    for part in parts:
        own = list(part.facts)
        mine = set(own)
        others = list(dict.fromkeys(fact for other in parts for fact in other.facts if fact not in mine))
        z, h = (torch.stack([getattr(mkvs[fact], name) for fact in own + others]) for name in ("z", "h"))
        vectors = represent(representation, z, h)
        adopted = policy.choose(vectors[: len(own)], vectors[len(own) :])
        relevant = set(part.relevant)
        counts.append(precision_recall(adopted, torch.tensor([fact in relevant for fact in others])))
    return Retrieval(*(sum(getattr(c, name) for c in counts) for name in ("adopted", "relevant", "both", "offered")))
