"""Decoys in the row space of an edit that is published as weights: they hold until the attacker runs the model.

Whoever publishes an edited model publishes dW with it, and `attacks.updates.from_update` reads the subjects out of its
row space. Camouflage puts the keys of *decoys* there too, subjects that nobody edited. The solve gets them as further
facts, each with its own key q and a share e of its own:

    S' = S + sum q q^T,    T' = T + sum e q^T

In the manner of the defence of KSTER (arXiv 2602.10134). Shares e of `random_shares` have directions of their own. Each
decoy then is in the row space of dW however small e is. Those of `mixed_shares` are combinations of the facts' own.
They add nothing to the rank of dW: its rows become mixtures of facts' keys and decoys' keys.

The attacker who knows of it orders candidates by what dW does to their keys (`updates.size_in_update`), or runs the
edited model on them. A small e leaves the model's answers about decoys alone, and hides no fact from this attacker. An
e of the size of a real share hides facts among decoys, and edits the decoys too: the model's answers about them change.

Measured on 60 atlas facts among 2,562 candidates, of whose subjects the row space of dW gives all without decoys, at
score 0.90 and top-1 0.97. Ten decoys a fact with random shares of 0.05 of a real one keep score and top-1. Then the row
space gives 0.45, and the size of dW k 0.88. With shares of full length the two give 0.00 and 0.10, and top-1 falls to
0.80; mixed ones 0.07 and 0.07, and 0.57. But whoever knows the templates and runs the model still tells facts from
decoys: AUC 0.90 (mixed), 0.98 (random) and 1.00 (random, 0.05). It is no protection against that attacker.

Decoys must be as likely as the facts: subjects of the same kind, which the edit does not concern.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fleke_lib.ridge.sums import Sums


def decoyed(total: Sums, keys: Float[Tensor, "decoys d_mlp"], shares: Float[Tensor, "decoys d_model"]) -> Sums:
    """One layer's sums with decoys added, to be solved as usual (`closed_form.from_sums`).

    Raises:
        ValueError: there are not as many shares as keys, or their widths are not those of the sums.
    """
    d_model, d_mlp = total.T.shape
    if len(keys) != len(shares) or keys.shape[1] != d_mlp or shares.shape[1] != d_model:
        raise ValueError(
            f"keys are {tuple(keys.shape)}, shares {tuple(shares.shape)}: give one share of width {d_model} for each "
            f"key of width {d_mlp}."
        )
    k, e = keys.double(), shares.double()
    return total + Sums(k.T @ k, e.T @ k)


def random_shares(
    shares: Mapping[int, Float[Tensor, "facts d_model"]], decoys: int, scale: float, seed: int
) -> dict[int, Float[Tensor, "decoys d_model"]]:
    """Decoys' shares for each layer in random directions, `scale` times as long as those of a fact drawn at random.

    A decoy has one direction and one fact's lengths at all layers, so that its shares agree as a fact's do.

    Raises:
        ValueError: a negative scale, or no facts.
    """
    generator, models = _drawn(shares, decoys, scale, seed)
    width = next(iter(shares.values())).shape[1]
    directions = normalize(torch.randn(decoys, width, generator=generator, dtype=torch.float64), dim=1)
    return {layer: scale * directions * _lengths(own)[models] for layer, own in shares.items()}


def mixed_shares(
    shares: Mapping[int, Float[Tensor, "facts d_model"]], decoys: int, scale: float, seed: int
) -> dict[int, Float[Tensor, "decoys d_model"]]:
    """The same, in directions that are random combinations of the facts' shares, one combination for all layers.

    Raises:
        ValueError: as for `random_shares`.
    """
    generator, models = _drawn(shares, decoys, scale, seed)
    mix = torch.randn(decoys, len(next(iter(shares.values()))), generator=generator, dtype=torch.float64)
    return {
        layer: scale * normalize(mix @ own.double(), dim=1) * _lengths(own)[models] for layer, own in shares.items()
    }


def _drawn(shares: Mapping[int, Tensor], decoys: int, scale: float, seed: int) -> tuple[torch.Generator, Tensor]:
    facts = len(next(iter(shares.values()), ()))
    if scale < 0 or not facts:
        raise ValueError(f"scale {scale}, {facts} facts: give a scale of 0 or more, and shares of one fact or more.")
    generator = torch.Generator().manual_seed(seed)
    return generator, torch.randint(facts, (decoys,), generator=generator)


def _lengths(shares: Tensor) -> Tensor:
    return shares.double().norm(dim=1, keepdim=True)
