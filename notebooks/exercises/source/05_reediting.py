# %% [markdown]
# # Exercises: re-editing
#
# Three exercises to [chapter 05](../05_reediting.ipynb). Put your lines where a function raises `NotImplementedError`,
# run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - average low-rank edits, and say why averaging their factors is something else;
# - re-edit slot after slot without drift, in any order;
# - settle conflicts so that all clients come to the same end.

# %%
from collections.abc import Sequence

import torch
from checks.reediting import Claim, Packet, check_fedavg, check_reedit, check_settled
from jaxtyping import Float

# %% [exercise] difficulty=2 importance=4 minutes=15
# ## The mean of thin matrices
#
# FedAvg of LoRA adapters is often done by averaging the factors, which is quick and wrong: a mean of products is not
# the product of means. Do it right, still in factors: return two thin matrices whose product is the mean of the
# clients' edits, each weighted by its number of facts. Nothing as large as the weight may be made.


# %%
def fedavg(
    lefts: Sequence[Float[torch.Tensor, "d_model n"]],
    rights: Sequence[Float[torch.Tensor, "n d_mlp"]],
    facts: Sequence[int],
) -> tuple[Float[torch.Tensor, "d_model m"], Float[torch.Tensor, "m d_mlp"]]:
    """Factors of the clients' mean edit. A client's edit is left @ right, its weight its share of all facts.

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
# What is `[B1 B2] @ [A1; A2]`, with one pair of factors beside and the other below each other? The rank is the price:
# it grows with the clients.

# %% [exercise] difficulty=3 importance=5 minutes=20
# ## Again from the base weights
#
# Slot after slot packets arrive. Adding each slot's own solution to what is there drifts, because no slot knows the
# keys of the others. Solve instead, after every slot, all packets that are held so far, from the base weights. A packet
# may come twice, adopted from two clients: tags tell equal answers, and of equal answers one counts.


# %%
def reedit(
    slots: Sequence[Sequence[Packet]], C: Float[torch.Tensor, "d_mlp d_mlp"], lam: float
) -> list[Float[torch.Tensor, "d_model d_mlp"]]:
    """The change of the base weights after each slot.

    A packet has `answer`, a tag; `key`, (d_mlp,); and `share`, (d_model,), what its key should be answered with.
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
# Keep what is held in something that has one place for each answer. The solve is the ridge of chapter 02, over
# everything in it, and does not look at the change before.

# %% [exercise] difficulty=3 importance=4 minutes=20
# ## Two answers to one question
#
# Tags show a conflict and hide what it is about. Clients that settle alone must come to the same end, whatever the
# order in which packets reached them. The rule here: for each question the answer stays that most *clients* have
# published; where several are first, nobody's does. Of the packets of an answer that stays one is kept, the oldest, and
# of one slot's the one with the least id.


# %%
def resolve(claims: Sequence[Claim]) -> set[str]:
    """The ids of the packets that stay; a claim has `id`, `client`, `slot`, and as tags `question` and `answer`."""
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
# A set of clients for each answer counts nobody twice. Then ask how many answers have the greatest number of clients.
# Python compares pairs by their first member, and by the second where the first are equal.
