"""Checks of the exercises to chapter 04."""

from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from checks.algebra import normal
from checks.verdict import NotYet, Right, ask, expect, judge

TAU = 0.4
CASES = (
    # angles of the own vectors, of those offered, what is adopted, and the sentence for another answer
    ((0, 0, 180), (0, 180), (True, False), "near to two of three is adopted, and near to one of three is not"),
    ((0, 180), (0, 90), (True, False), "near to one of two is half, which is enough, and near to none is not"),
    ((0, 10, 180, 270), (5, 250), (True, False), "near to two of four is enough, and near to one of four is not"),
    ((-70, 70), (0,), (False,), "an offer at 70 degrees from both, a cosine of 0.34, is near to neither"),
    ((80, 80, 0), (0,), (False,), "an offer equal to one and far from two is refused, however near the one is"),
    ((60, 60, 180), (0,), (True,), "an offer at 60 degrees from two of three is adopted, however far the third is"),
)


def check_centred(centred: Callable, z: Float[Tensor, "facts d_model"], relations: Sequence[str]) -> Right:
    """Against cosines pair by pair; the verdict tells what yours find on the shipped MKVs."""
    common = 4 * normal(1, 12, seed=0)
    own, offered = common + normal(5, 12, seed=1), common + 0.5 + normal(9, 12, seed=2)
    found = ask(centred, own, offered)
    seen = torch.cat([own, offered])

    def pairs(own: Tensor, offered: Tensor) -> Float[Tensor, "n m"]:
        return cosine_similarity(own[:, None], offered[None], dim=-1)

    unit = normalize(seen)
    mistakes = {
        "these are the cosines of raw vectors: what all have in common is still in them.": pairs(own, offered),
        "own and offered vectors are centred apart: what sets the two groups apart is lost.": pairs(
            own - own.mean(0), offered - offered.mean(0)
        ),
        "the mean is that of the client's own vectors: it sees the offered ones as well.": pairs(
            own - own.mean(0), offered - own.mean(0)
        ),
        "the mean is that of the offered vectors: the client's own are seen as well.": pairs(
            own - offered.mean(0), offered - offered.mean(0)
        ),
        "the vectors are cut to length 1 before they are centred: the mean is then another.": pairs(
            unit[:5] - unit.mean(0), unit[5:] - unit.mean(0)
        ),
        "these are inner products: divide by both lengths.": (own - seen.mean(0)) @ (offered - seen.mean(0)).T,
    }
    wanted = pairs(own - seen.mean(0), offered - seen.mean(0))
    judge("the table of cosines", found, wanted, mistakes, "these are not the cosines of centred vectors.")
    auc = {name: _auc(cosines, relations) for name, cosines in (("raw", pairs(z, z)), ("yours", centred(z, z)))}
    return Right(
        f"on {len(z)} shipped MKVs the AUC of one relation against two is {auc['yours']:.2f}, raw {auc['raw']:.2f}."
    )


def _auc(cosines: Float[Tensor, "facts facts"], relations: Sequence[str]) -> float:
    """The chance that a pair of one relation is more alike than a pair of two."""
    same = torch.tensor([[one == other for other in relations] for one in relations])
    pairs = torch.ones_like(same).triu(1)
    one, two = cosines[same & pairs].double(), cosines[~same & pairs].double()
    return float((one[:, None] > two).double().mean())


def check_majority(majority: Callable, z: Float[Tensor, "facts d_model"]) -> Right:
    """On vectors in a plane, whose cosines are those of the angles between them."""
    for degrees, offered, wanted, rule in CASES:
        found = ask(majority, _plane(degrees), 3 * _plane(offered), TAU)
        expect(found.dtype == torch.bool, f"the answer is of {found.dtype}: return one bool for each offered vector.")
        expect(found.shape == (len(offered),), f"the answer has the shape {tuple(found.shape)}: one bool an offer.")
        expect(found.tolist() == list(wanted), f"{rule}, but yours says {found.tolist()}.")
    own, offered = z[: len(z) // 8], z[len(z) // 8 :]
    mean = z.mean(0)
    shares = [
        float(ask(majority, a, b, TAU).double().mean()) for a, b in ((own, offered), (own - mean, offered - mean))
    ]
    return Right(f"of the shipped MKVs, a mix of relations, it adopts {shares[0]:.0%} raw and {shares[1]:.0%} centred.")


def _plane(degrees: Sequence[float]) -> Float[Tensor, "vectors 2"]:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def check_account(account: Callable) -> Right:
    """Precision and recall by counting by hand; chance by going through everything that could have been drawn."""
    adopted = [torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 0, 0, 0, 0]).bool()]
    relevant = [torch.tensor([1, 0, 0, 0]).bool(), torch.tensor([1, 1, 1, 1, 0, 0]).bool()]
    found = ask(account, adopted, relevant)
    keys = {"precision", "recall", "chance"}
    expect(isinstance(found, dict) and found.keys() == keys, "return a dict with the keys precision, recall, chance.")
    _same("precision", found, 2 / 3, {(1 / 2 + 1) / 2: "averages clients' precisions: count over all clients first"})
    mistakes = {(1 + 1 / 4) / 2: "averages clients' recalls: count over all clients first", 2 / 3: "is the precision"}
    _same("recall", found, 2 / 5, mistakes)
    mistakes = {
        5 / 10: "is the share of all offers that are relevant: clients adopt differently much, from different offers",
        (1 / 4 + 4 / 6) / 2: "averages clients: one that adopts more counts for more",
    }
    _same("chance", found, _exhausted(adopted, relevant), mistakes)
    nothing = ask(account, [torch.zeros(3).bool()], [torch.tensor([1, 0, 0]).bool()])
    expect(nothing["precision"] == 1, "one who adopts nothing adopts nothing wrongly: precision is then 1.")
    expect(nothing["recall"] == 0, "one who adopts nothing misses all that is relevant: recall is then 0.")
    return Right("counted over clients; chance agrees with all 36 ways of adopting as many.")


def _exhausted(adopted: Sequence[Bool[Tensor, " m"]], relevant: Sequence[Bool[Tensor, " m"]]) -> float:
    """The mean precision over every choice of as many offers for each client."""
    choices = [list(combinations(range(len(a)), int(a.sum()))) for a in adopted]
    hits = [
        sum(bool(relevant[i][offer]) for i, offers in enumerate(choice) for offer in offers)
        for choice in product(*choices)
    ]
    return float(np.mean(hits)) / sum(int(a.sum()) for a in adopted)


def _same(name: str, found: dict, wanted: float, mistakes: dict[float, str]) -> None:
    if abs(found[name] - wanted) < 1e-9:
        return
    for value, sentence in mistakes.items():
        expect(abs(found[name] - value) > 1e-9, f"{name} {sentence}.")
    raise NotYet(f"{name} is {found[name]:.3f} where counting gives {wanted:.3f}.")
