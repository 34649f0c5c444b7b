"""Which relation is a packet about, which words follow its subject, and which packets belong together?

The attacker sees the packets' axes, z and h. The axes of a layer are those of the spread D (see
`fleke_lib.federation.packets.compression`): how a fact's key differs between contexts, and the keys of the prompt's
other words, the bystanders. They were added for the edit's quality, and show the words of the prompt that are no part
of the subject. Two spreads are compared by the cosine of the matrices,

    overlap(D, D') = <D, D'> / (|D| |D'|),     <X^T X, Y^T Y> = |X Y^T|^2

`template_scores` knows a list of public templates and runs each with a placeholder instead of the subject. `nearest`
and `linked` know nothing, and compare packets with each other.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.model.activations import layer_calls, record
from fleke_lib.model.language_model import LanguageModel, widened
from fleke_lib.model.tokens import encode_for, filler, pad
from fleke_lib.privacy.attacks.rates import Rate
from fleke_lib.privacy.attacks.target import PLACEHOLDER


def overlap(ours: Float[Tensor, "n rows d"], theirs: Float[Tensor, "m others d"]) -> Float[Tensor, "n m"]:
    """The cosines of spreads whose rows are given; a spread of zeros has the cosine 0 with all."""
    return _product(ours, theirs) / (_length(ours)[:, None] * _length(theirs)).clamp_min(1e-30)


def axes(packets: Sequence[Packet], layer: int) -> Float[Tensor, "packets axes d_mlp"]:
    """The axes of all packets at one layer."""
    return torch.stack([packet.axes[layer] for packet in packets])


@torch.no_grad()
def bystanders(
    lm: LanguageModel, templates: Sequence[str], layer: int, subject: str = PLACEHOLDER
) -> Float[Tensor, "templates words d_mlp"]:
    """Keys of each template's own words, without the first token of the text and the subject's; the rest is zeros."""
    lm.check_unedited("the keys of public templates")
    texts = []
    for template in templates:
        start = template.index("{}")
        texts.append(encode_for(lm, template.replace("{}", subject, 1), subject=(start, start + len(subject))))
    ids, mask, positions = pad([text.ids for text in texts], filler(lm.tokenizer))
    with record(inputs={"key": lm.projection(layer)}) as seen:
        layer_calls(lm, ids, mask, positions, start=layer, stop=layer + 1)
    words = [[t for t in range(1, len(text.ids)) if not text.subject[0] <= t <= text.subject[1]] for text in texts]
    return pad_sequence([widened(seen["key"][i, own]).cpu() for i, own in enumerate(words)], batch_first=True)


def template_scores(
    lm: LanguageModel, packets: Sequence[Packet], templates: Sequence[str], layer: int | None = None
) -> Float[Tensor, "packets templates"]:
    """The overlap of each packet's spread with each template's bystanders. layer: by default the last edited one."""
    layer = packets[0].layers[-1] if layer is None else layer
    return overlap(axes(packets, layer), bystanders(lm, templates, layer))


def cosine(vectors: Float[Tensor, "packets d"]) -> Float[Tensor, "packets packets"]:
    """All cosines after the mean is subtracted: how alike two packets' z or h are."""
    unit = normalize(vectors.double() - vectors.double().mean(0), dim=1)
    return unit @ unit.T


def nearest(alike: Float[Tensor, "packets packets"], labels: Sequence[Hashable]) -> Rate:
    """How often a packet's nearest other packet has the same label; packets whose label no other has are left out."""
    same = _same(labels)
    np.fill_diagonal(same, False)
    ranked = alike.double().clone().fill_diagonal_(-torch.inf).argmax(1).numpy()
    some = same.any(1)
    hits = same[np.arange(len(same)), ranked][some]
    return Rate(int(hits.sum()), len(hits), float(same[some].mean(1).mean() * len(same) / (len(same) - 1)))


def linked(
    alike: Float[Tensor, "packets packets"], labels: Sequence[Hashable], among: Sequence[Hashable] | None = None
) -> float:
    """The AUC with which likeness tells pairs with the same label from other pairs; 0.5 means that it does not.

    among: only pairs that agree in this are compared. With clients as labels and relations here, the shared topic of
    a client's facts does not count as a trace of the client.

    Raises:
        ValueError: all pairs have the same label, or none has.
    """
    rows, columns, same = _pairs(labels, among)
    return float(roc_auc_score(same, alike.numpy()[rows, columns]))


def linked_interval(
    alike: Float[Tensor, "packets packets"],
    labels: Sequence[Hashable],
    among: Sequence[Hashable] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """A 95% interval of what `linked` returns: its quantiles over bootstrap samples of the packets.

    Packets are drawn, not pairs: pairs with a packet in common are not independent. A pair has as its weight the
    product of how often its two packets were drawn. A sample without both kinds of pairs is drawn again.

    Raises:
        ValueError: as `linked`.
    """
    rows, columns, same = _pairs(labels, among)
    places = np.unique(alike.numpy()[rows, columns], return_inverse=True)[1]
    generator = np.random.default_rng(seed)
    found = []
    while len(found) < draws:
        times = generator.multinomial(len(labels), np.full(len(labels), 1 / len(labels)))
        weight = times[rows] * times[columns]
        ours, others = (np.bincount(places[kind], weight[kind], places.max() + 1) for kind in (same, ~same))
        if ours.any() and others.any():
            below = others.cumsum() - others / 2  # ties count as half
            found.append(ours @ below / (ours.sum() * others.sum()))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _pairs(
    labels: Sequence[Hashable], among: Sequence[Hashable] | None
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Bool[np.ndarray, " pairs"]]:
    """Both packets of each pair that is compared, and whether they have the same label."""
    rows, columns = np.triu_indices(len(labels), 1)
    if among is not None:
        kept = _same(among)[rows, columns]
        rows, columns = rows[kept], columns[kept]
    same = _same(labels)[rows, columns]
    if same.all() or not same.any():
        raise ValueError(
            f"{int(same.sum())} of {len(same)} pairs have the same label: give labels that differ in some."
        )
    return rows, columns, same


def _same(labels: Sequence[Hashable]) -> np.ndarray:
    numbers = np.array([list(dict.fromkeys(labels)).index(label) for label in labels])
    return numbers[:, None] == numbers


def _product(ours: Tensor, theirs: Tensor) -> Tensor:
    """<D, D'> of all pairs."""
    n, m = len(ours), len(theirs)
    inner = ours.double().flatten(0, 1) @ theirs.double().flatten(0, 1).T
    return inner.square().unflatten(0, (n, -1)).unflatten(-1, (m, -1)).sum((1, 3))


def _length(rows: Tensor) -> Tensor:
    """|D| of each."""
    wide = rows.double()
    return (wide @ wide.transpose(1, 2)).square().sum((1, 2)).sqrt()
