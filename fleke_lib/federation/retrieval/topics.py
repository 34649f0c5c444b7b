"""The topic of a fact for a partition: its relation, or the cluster of its question."""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.federation.retrieval.clusters import cluster
from fleke_lib.model import tokens
from fleke_lib.model.activations import layer_calls
from fleke_lib.model.language_model import LanguageModel

TEXTS_AT_ONCE = 32


def topics_of(facts: Sequence[Fact], by: str, clients: int, lm: LanguageModel | None, seed: int) -> list[str]:
    """The topic of each fact: its relation, or with "spectral" the cluster of its question's embedding in the model."""
    if by != "spectral":
        return [relation_of(fact) for fact in facts]
    return [f"cluster {label}" for label in spectral_labels(lm, facts, 2 * clients, seed)]


def spectral_labels(lm: LanguageModel, facts: Sequence[Fact], clusters: int, seed: int) -> list[int]:
    """The spectral cluster of each fact's question by its embedding; at most half as many clusters as facts."""
    states = question_embeddings(lm, facts)
    return cluster(states - states.mean(0), min(clusters, len(facts) // 2), "spectral", seed).tolist()


def relation_of(fact: Fact) -> str:
    """The fact's relation, or its prompt where the data set has none."""
    return fact.relation or fact.prompt


def main_topics(topics: Sequence[str], share: float = 0.8) -> set[str]:
    """The largest topics that together cover at least `share` of a client's holdings.

    Topics that tie in size with the smallest of these are included, so the result does not depend on any order.

    Args:
        topics: the topic of each holding.
    """
    sizes = Counter(topics)
    held = least = 0
    for _, least in sizes.most_common():
        held += least
        if held / len(topics) >= share:
            break
    return {topic for topic, size in sizes.items() if size >= least}


@torch.no_grad()
def question_embeddings(
    lm: LanguageModel, facts: Sequence[Fact], layer: int | None = None
) -> Float[Tensor, "facts d_model"]:
    """The mean state after a layer (by default the middle one) over a question's tokens except the first.

    In many models the first token of any text is an attention sink: its state is a hundred times as large as the
    others and would dominate the mean. A question of one token keeps it.
    """
    check_list(facts)
    above = lm.check_layer(lm.n_layers // 2 if layer is None else layer) + 1
    coded = [tokens.encode_for(lm, fact.question).ids for fact in facts]
    found = torch.empty(len(facts), lm.d_model)
    by_length = sorted(range(len(coded)), key=lambda i: len(coded[i]))
    for first in range(0, len(coded), TEXTS_AT_ONCE):
        part = by_length[first : first + TEXTS_AT_ONCE]
        ids, mask, positions = tokens.pad([coded[i] for i in part], tokens.filler(lm.tokenizer))
        states = layer_calls(lm, ids, mask, positions, start=above, stop=above).hidden.float().cpu()
        counted = mask.clone()
        counted[mask.sum(1) > 1, 0] = 0
        found[part] = (states * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
    return found
