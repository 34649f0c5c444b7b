"""Checks of the exercises on chapter 04."""

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
    # angles of the own and of the offered vectors, what is adopted, and the sentence for a wrong answer
    (
        (0, 0, 180),
        (0, 180),
        (True, False),
        "an offer near to two of three is adopted, and one near to one of three is not",
    ),
    (
        (0, 180),
        (0, 90),
        (True, False),
        "an offer near to one of two is half, which is enough; one near to none is not adopted",
    ),
    (
        (0, 10, 180, 270),
        (5, 250),
        (True, False),
        "an offer near to two of four is adopted, and one near to one of four is not",
    ),
    ((-70, 70), (0,), (False,), "an offer at 70 degrees from both has a cosine of 0.34 and is near to neither"),
    ((80, 80, 0), (0,), (False,), "an offer equal to one vector and far from two is refused, however near the one is"),
    ((60, 60, 180), (0,), (True,), "an offer at 60 degrees from two of three is adopted, however far the third is"),
)


def check_centred(centred: Callable, z: Float[Tensor, "facts d_model"], relations: Sequence[str]) -> Right:
    """Compare with cosines computed pair by pair; the verdict says what the answer finds on the shipped MKVs."""
    common = 4 * normal(1, 12, seed=0)
    own, offered = common + normal(5, 12, seed=1), common + 0.5 + normal(9, 12, seed=2)
    found = ask(centred, own, offered)
    seen = torch.cat([own, offered])

    def pairs(own: Tensor, offered: Tensor) -> Float[Tensor, "n m"]:
        return cosine_similarity(own[:, None], offered[None], dim=-1)

    unit = normalize(seen)
    mistakes = {
        "these are the cosines of raw vectors: the mean that all have in common is still in them.": pairs(own, offered),
        "own and offered vectors are centred apart: the difference between the two groups is lost.": pairs(
            own - own.mean(0), offered - offered.mean(0)
        ),
        "the mean is that of the client's own vectors alone: it sees the offered ones as well.": pairs(
            own - own.mean(0), offered - own.mean(0)
        ),
        "the mean is that of the offered vectors alone: the client sees its own as well.": pairs(
            own - offered.mean(0), offered - offered.mean(0)
        ),
        "the vectors are scaled to length 1 before they are centred: this changes the mean.": pairs(
            unit[:5] - unit.mean(0), unit[5:] - unit.mean(0)
        ),
        "these are inner products: divide them by both lengths.": (own - seen.mean(0)) @ (offered - seen.mean(0)).T,
    }
    wanted = pairs(own - seen.mean(0), offered - seen.mean(0))
    judge("the table of cosines", found, wanted, mistakes, "these are not the cosines of centred vectors.")
    auc = {name: _auc(cosines, relations) for name, cosines in (("raw", pairs(z, z)), ("yours", centred(z, z)))}
    return Right(
        f"on {len(z)} shipped MKVs the AUC for pairs of one relation is {auc['yours']:.2f}, raw {auc['raw']:.2f}."
    )


def _auc(cosines: Float[Tensor, "facts facts"], relations: Sequence[str]) -> float:
    """The probability that a pair of one relation is more similar than a pair of two relations."""
    same = torch.tensor([[one == other for other in relations] for one in relations])
    pairs = torch.ones_like(same).triu(1)
    one, two = cosines[same & pairs].double(), cosines[~same & pairs].double()
    return float((one[:, None] > two).double().mean())


def check_majority(majority: Callable, z: Float[Tensor, "facts d_model"]) -> Right:
    """Use vectors in a plane, where the angles between them give the cosines."""
    for degrees, offered, wanted, rule in CASES:
        found = ask(majority, _plane(degrees), 3 * _plane(offered), TAU)
        expect(
            found.dtype == torch.bool,
            f"the answer has the dtype {found.dtype}: return one bool for each offered vector.",
        )
        expect(
            found.shape == (len(offered),),
            f"the answer has the shape {tuple(found.shape)}: return one bool for each offer.",
        )
        expect(found.tolist() == list(wanted), f"{rule}, but yours returns {found.tolist()}.")
    square = torch.eye(2, dtype=torch.float64)
    expect(not ask(majority, square[:1], square[1:], 0.0).any(), "a cosine that is equal to tau is not over it.")
    own, offered = z[: len(z) // 8], z[len(z) // 8 :]
    mean = z.mean(0)
    shares = [
        float(ask(majority, a, b, TAU).double().mean()) for a, b in ((own, offered), (own - mean, offered - mean))
    ]
    return Right(
        f"for a client with mixed relations it adopts {shares[0]:.0%} of raw and {shares[1]:.0%} of centred MKVs."
    )


def _plane(degrees: Sequence[float]) -> Float[Tensor, "vectors 2"]:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def check_account(account: Callable) -> Right:
    """Precision and recall are counted by hand; chance is the mean over every possible draw."""
    adopted = [torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 0, 0, 0, 0]).bool()]
    relevant = [torch.tensor([1, 0, 0, 0]).bool(), torch.tensor([1, 1, 1, 1, 0, 0]).bool()]
    found = ask(account, adopted, relevant)
    keys = {"precision", "recall", "chance"}
    expect(
        isinstance(found, dict) and found.keys() == keys, "return a dict with the keys precision, recall and chance."
    )
    _same(
        "precision", found, 2 / 3, {(1 / 2 + 1) / 2: "averages the clients' precisions: count over all clients first"}
    )
    mistakes = {
        (1 + 1 / 4) / 2: "averages the clients' recalls: count over all clients first",
        2 / 3: "is the precision",
    }
    _same("recall", found, 2 / 5, mistakes)
    mistakes = {
        5 / 10: "is the share of all offers that are relevant: each client draws from its own offers",
        (1 / 4 + 4 / 6) / 2: "averages over clients: a client that adopts more counts for more",
    }
    _same("chance", found, _exhausted(adopted, relevant), mistakes)
    nothing = ask(account, [torch.zeros(3).bool()], [torch.tensor([1, 0, 0]).bool()])
    expect(nothing["precision"] == 1, "a client that adopts nothing makes no wrong adoption: precision is then 1.")
    expect(nothing["recall"] == 0, "a client that adopts nothing misses all that is relevant: recall is then 0.")
    expect(nothing["chance"] == 1, "a client that adopts nothing draws nothing: chance is then 1.")
    spared = ask(account, [torch.tensor([1, 0]).bool()], [torch.zeros(2).bool()])
    expect(spared["recall"] == 1, "where nothing is relevant nothing can be missed: recall is then 1.")
    return Right("counted over all clients; chance equals the mean over all 36 ways of adopting as many.")


def _exhausted(adopted: Sequence[Bool[Tensor, " m"]], relevant: Sequence[Bool[Tensor, " m"]]) -> float:
    """The mean precision over every choice of the same number of offers for each client."""
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
    raise NotYet(f"{name} is {found[name]:.3f}, and counting gives {wanted:.3f}.")
