# %% [markdown]
# # Exercises: re-editing
#
# Three exercises on [chapter 05](../05_reediting.ipynb). Put your lines where a function raises `NotImplementedError`,
# run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - average low-rank edits, and say why averaging their factors gives a different result;
# - re-edit slot after slot without drift, in any order;
# - resolve conflicts so that all clients reach the same result.

# %%
from collections.abc import Sequence

import torch
from checks.reediting import Claim, Packet, check_fedavg, check_reedit, check_settled
from jaxtyping import Float

# %% [exercise] difficulty=2 importance=4 minutes=15
# ## The mean of low-rank edits
#
# FedAvg of LoRA adapters is often done by averaging the factors. This is quick and wrong: a mean of products is not the
# product of the means. Compute the true mean, still in factors: return two thin matrices whose product is the mean of
# the clients' edits, each weighted by its number of facts. Do not form any matrix as large as the weight.


# %%
def fedavg(
    lefts: Sequence[Float[torch.Tensor, "d_model n"]],
    rights: Sequence[Float[torch.Tensor, "n d_mlp"]],
    facts: Sequence[int],
) -> tuple[Float[torch.Tensor, "d_model m"], Float[torch.Tensor, "m d_mlp"]]:
    """Return the factors of the clients' mean edit. A client's edit is left @ right, its weight its share of the facts.

    The ranks n of the clients may differ.
    """
    ### BEGIN SOLUTION
    shares = [count / sum(facts) for count in facts]
    scaled = [share * left for share, left in zip(shares, lefts, strict=True)]
    return torch.cat(scaled, 1), torch.cat(list(rights))
    ### END SOLUTION


# %%
check_fedavg(fedavg)

# %% [hint]
# What is `[B1 B2] @ [A1; A2]`, where `B1` and `B2` stand side by side, and `A1` above `A2`? The price is the rank: it
# grows with the number of clients.

# %% [exercise] difficulty=3 importance=5 minutes=20
# ## Solve again from the base weights
#
# Packets arrive slot after slot. Adding each slot's own solution to the current weights drifts, because no slot's
# solution knows the keys of the others. Instead, after every slot, solve all packets held so far together, from the
# base weights. An answer may arrive twice, from two clients. Equal tags mean equal answers, and an answer counts once.


# %%
def reedit(
    slots: Sequence[Sequence[Packet]], C: Float[torch.Tensor, "d_mlp d_mlp"], lam: float
) -> list[Float[torch.Tensor, "d_model d_mlp"]]:
    """Return the change of the base weights after each slot.

    A packet has `answer`, a tag; `key`, (d_mlp,); and `share`, (d_model,), the output change that is wanted at its key.
    """
    ### BEGIN SOLUTION
    held, changes = {}, []
    for slot in slots:
        held |= {packet.answer: packet for packet in slot}
        keys = torch.stack([packet.key for packet in held.values()])
        shares = torch.stack([packet.share for packet in held.values()])
        changes.append(torch.linalg.solve(lam * C + keys.T @ keys, keys.T @ shares).T)
    return changes
    ### END SOLUTION


# %%
check_reedit(reedit)

# %% [hint]
# Keep the packets in a structure that has one place for each answer. The solve is the ridge regression of chapter 02
# over everything in it, and does not use the previous change.

# %% [exercise] difficulty=3 importance=4 minutes=20
# ## Two answers to one question
#
# Tags show that there is a conflict and hide what it is about. Each client resolves conflicts alone, and all clients
# must reach the same result, whatever the order in which packets reached them. The rule here: for each question, keep
# the answer that most *clients* have published; if several answers have the most clients, keep none of them. Of the
# packets with the kept answer, keep only the oldest; among the oldest ones of one slot, keep the one with the smallest
# id.


# %%
def resolve(claims: Sequence[Claim]) -> set[str]:
    """Return the ids of the packets to keep; a claim has `id`, `client`, `slot` and the tags `question`, `answer`."""
    ### BEGIN SOLUTION
    kept = set()
    for question in {claim.question for claim in claims}:
        asked = [claim for claim in claims if claim.question == question]
        voters = {}
        for claim in asked:
            voters.setdefault(claim.answer, set()).add(claim.client)
        most = max(len(clients) for clients in voters.values())
        first = [answer for answer, clients in voters.items() if len(clients) == most]
        if len(first) == 1:
            kept.add(min((claim.slot, claim.id) for claim in asked if claim.answer == first[0])[1])
    return kept
    ### END SOLUTION


# %%
check_settled(resolve)

# %% [hint]
# Collect a set of clients for each answer, so that no client counts twice. Then ask how many answers have the greatest
# number of clients. Python compares pairs by their first element, and by the second if the first ones are equal.
