"""What a policy adopts once everything is published, compared with what is relevant; computed without a run."""

from collections.abc import Mapping, Sequence

import torch

from fleke_lib.facts.fact import Fact
from fleke_lib.federation.partitioning import Part
from fleke_lib.federation.retrieval.policies import Policy
from fleke_lib.federation.retrieval.precision import Retrieval, precision_recall
from fleke_lib.federation.retrieval.representations import represent
from fleke_lib.mkv.mkv import Mkv


def found_by(
    policy: Policy, parts: Sequence[Part], mkvs: Mapping[Fact, Mkv], representation: str = "centred"
) -> Retrieval:
    """Compare what a policy adopts once everything is published with what is relevant; counts summed over clients.

    Each client compares the vectors of its own facts with those of all facts that others hold and it does not.

    Args:
        mkvs: the MKV of every fact of the parts.
        representation: which vectors are compared, see `retrieval.represent`.
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
