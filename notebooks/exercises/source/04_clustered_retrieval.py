# %% [markdown]
# # Exercises: clustered retrieval
#
# Three exercises on [chapter 04](../04_clustered_retrieval.ipynb). Put your lines where a function raises
# `NotImplementedError`, run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - compare MKVs after removing what all of them have in common;
# - implement the published rule exactly;
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
# The cosine of two raw MKVs is high whatever they are about, because all MKVs share a large mean. A client cannot know
# the mean of everything. It takes the mean of all vectors it can see: its own and those it is offered. Compute the
# table of cosines of the centred vectors. The check says what it finds on the MKVs that ship with the course.


# %%
def centred(
    own: Float[torch.Tensor, "n d_model"], offered: Float[torch.Tensor, "m d_model"]
) -> Float[torch.Tensor, "n m"]:
    """Return the cosine of each own with each offered vector, after the mean of all n + m is subtracted."""
    ### BEGIN SOLUTION
    mean = torch.cat([own, offered]).mean(0)
    own, offered = own - mean, offered - mean
    return (own @ offered.T) / (own.norm(dim=1)[:, None] * offered.norm(dim=1))
    ### END SOLUTION


# %%
check_centred(centred, z, relations)

# %% [hint]
# Subtract one mean from both. One matrix product gives all inner products; then divide each row and each column by the
# lengths of its vectors.

# %% [exercise] difficulty=2 importance=5 minutes=15
# ## The published rule
#
# FedEdit's public code adopts an offered vector when its cosine with *at least half* of the client's own vectors is
# *over* $\tau$. The published $\tau$ is 0.4; find out what it does on this model. Your function receives vectors that
# the caller may or may not have centred, and their lengths differ.


# %%
def majority(
    own: Float[torch.Tensor, "n d"], offered: Float[torch.Tensor, "m d"], tau: float
) -> Bool[torch.Tensor, " m"]:
    """Return for each offered vector whether it is adopted."""
    ### BEGIN SOLUTION
    cosines = torch.nn.functional.cosine_similarity(own[:, None], offered[None], dim=-1)
    near = (cosines > tau).sum(0)
    return 2 * near >= len(own)
    ### END SOLUTION


# %%
check_majority(majority, z)

# %% [hidden]
from checks.algebra import normal
from checks.verdict import expect

for n, tau in ((1, 0.4), (4, 0.1), (5, 0.0), (8, -0.2)):
    own, offered = normal(n, 3, seed=n), normal(30, 3, seed=10 + n)
    near = [[float(a @ b / (a.norm() * b.norm())) > tau for a in own] for b in offered]
    wanted = [sum(row) >= n / 2 for row in near]
    expect(majority(own, offered, tau).tolist() == wanted, f"for {n} random vectors and tau {tau} others are adopted.")

# %% [hint]
# "At least half" of three is two, and of four it is two as well. Comparing whole numbers avoids rounding. A mean of
# cosines would be another rule: in it one very near vector can outvote two that are not near.

# %% [exercise] difficulty=3 importance=4 minutes=20
# ## Better than what?
#
# A policy is judged by what its clients adopt. Precision is the share of the adopted vectors that are relevant; recall
# is the share of the relevant vectors that are adopted. Over many clients, count first and divide at the end.
# Otherwise a client that adopts one vector counts as much as one that adopts a hundred. A precision also needs a
# baseline, the precision of random choice: each client adopts as many vectors as before, drawn at random from its own
# offers. This expectation has a formula; no simulation is needed.


# %%
def account(
    adopted: Sequence[Bool[torch.Tensor, " m"]], relevant: Sequence[Bool[torch.Tensor, " m"]]
) -> dict[str, float]:
    """Return {"precision": ..., "recall": ..., "chance": ...} over all clients; each client has its own m offers.

    chance: the expected precision if every client adopts as many vectors, drawn at random from its offers.
    Where nothing is adopted, precision and chance are 1. Where nothing is relevant, recall is 1.
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

# %% [hidden]
from checks.algebra import normal
from checks.verdict import expect

adopted = [normal(12, seed=i) > 0.5 for i in range(4)] + [torch.zeros(5).bool()]
relevant = [normal(12, seed=10 + i) > 0 for i in range(4)] + [torch.zeros(5).bool()]
sizes = [(sum(a.tolist()), sum(r.tolist()), len(a)) for a, r in zip(adopted, relevant, strict=True)]
both = sum(a and r for x, y in zip(adopted, relevant, strict=True) for a, r in zip(x.tolist(), y.tolist(), strict=True))
many, all_relevant = sum(a for a, _, _ in sizes), sum(r for _, r, _ in sizes)
wanted = {
    "precision": both / many,
    "recall": both / all_relevant,
    "chance": sum(a * r / m for a, r, m in sizes) / many,
}
for name, value in account(adopted, relevant).items():
    expect(abs(value - wanted[name]) < 1e-9, f"{name} of random clients is {value:.3f}, not {wanted[name]:.3f}.")

# %% [hint]
# Each single draw of a client is relevant with the same probability: the share of relevant ones among its offers.
# Expectations add up even where draws are not independent. So what is the expected number of relevant vectors among $a$
# draws?
