# %% [markdown]
# # Exercises: clustered retrieval
#
# Three exercises to [chapter 04](../04_clustered_retrieval.ipynb). Put your lines where a function raises
# `NotImplementedError`, run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - compare MKVs without what all of them have in common;
# - apply the published rule to the letter;
# - judge a policy over many clients, and against chance.

# %%
from collections.abc import Sequence

import torch
from checks.clustered_retrieval import check_account, check_centred, check_majority
from jaxtyping import Bool, Float

import fleke_lib as fleke
from fleke_lib.mkv import stored_mkvs

facts = fleke.load_facts("atlas")[:120]
z = torch.stack([mkv.z for mkv in stored_mkvs(fleke.load_model(), facts)])
relations = [fact.relation for fact in facts]

# %% [exercise] difficulty=1 importance=5 minutes=10
# ## What all have in common
#
# The cosine of two raw MKVs is high whatever they are about, because all share a large mean. A client cannot know the
# mean of everything; it takes that of all vectors it can see, its own and those it is offered. Compute the table of
# cosines of centred vectors. The check tells what it finds on the MKVs that ship with the course.


# %%
def centred(
    own: Float[torch.Tensor, "n d_model"], offered: Float[torch.Tensor, "m d_model"]
) -> Float[torch.Tensor, "n m"]:
    """The cosine of each own with each offered vector, both less the mean of all n + m."""
    ### BEGIN SOLUTION
    mean = torch.cat([own, offered]).mean(0)
    own, offered = own - mean, offered - mean
    return (own @ offered.T) / (own.norm(dim=1)[:, None] * offered.norm(dim=1))
    ### END SOLUTION


# %%
check_centred(centred, z, relations)

# %% [hint]
# One mean, taken off both. One matrix product gives all inner products; the lengths then have to be divided out along
# rows and along columns.

# %% [exercise] difficulty=2 importance=5 minutes=15
# ## The published rule
#
# FedEdit's public code adopts an offered vector when its cosine with *at least half* of the client's own vectors is
# *over* $\tau$. On the models that it was published for 0.4 may choose; find out what it does here. Vectors come as
# they are, raw or centred by whoever calls; their lengths differ.


# %%
def majority(
    own: Float[torch.Tensor, "n d"], offered: Float[torch.Tensor, "m d"], tau: float
) -> Bool[torch.Tensor, " m"]:
    """For each offered vector, whether it is adopted."""
    ### BEGIN SOLUTION
    cosines = torch.nn.functional.cosine_similarity(own[:, None], offered[None], dim=-1)
    near = (cosines > tau).sum(0)
    return 2 * near >= len(own)
    ### END SOLUTION


# %%
check_majority(majority, z)

# %% [hint]
# "At least half of three" is two, of four it is two as well. A comparison of whole numbers has no rounding. A mean of
# cosines is another rule: one very near vector would outvote two that are not near.

# %% [exercise] difficulty=3 importance=4 minutes=20
# ## Better than what?
#
# A policy is judged by what its clients adopt (precision: how much of it is relevant; recall: how much of the relevant
# it is). Over many clients one counts first and divides then, else a client that adopts one vector counts as much as
# one that adopts a hundred. And a precision says nothing until one knows what drawing lots would give: each client
# adopts as many of its own offers, whichever. That expectation has a formula; no simulation is needed.


# %%
def account(
    adopted: Sequence[Bool[torch.Tensor, " m"]], relevant: Sequence[Bool[torch.Tensor, " m"]]
) -> dict[str, float]:
    """{"precision": ..., "recall": ..., "chance": ...} over all clients; each has offers of its own, m of them.

    chance: the precision to be expected had every client adopted as many, drawn at random from its offers.
    Where nothing is adopted precision and chance are 1, and where nothing is relevant recall is.
    """
    ### BEGIN SOLUTION
    both = sum(int((a & r).sum()) for a, r in zip(adopted, relevant, strict=True))
    many, wanted = sum(int(a.sum()) for a in adopted), sum(int(r.sum()) for r in relevant)
    lots = sum(float(a.sum() * r.double().mean()) for a, r in zip(adopted, relevant, strict=True))
    return {
        "precision": both / many if many else 1.0,
        "recall": both / wanted if wanted else 1.0,
        "chance": lots / many if many else 1.0,
    }
    ### END SOLUTION


# %%
check_account(account)

# %% [hint]
# Each draw of a client is relevant with the probability that any of its offers is, whatever else it has drawn:
# expectations add up even where draws are not independent. So what is the expected number of relevant ones among $a$
# draws?
