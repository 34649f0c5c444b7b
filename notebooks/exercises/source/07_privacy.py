# %% [markdown]
# # Exercises: privacy
#
# Three exercises on [chapter 07](../07_privacy.ipynb). Put your lines where a function raises `NotImplementedError`,
# run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - name a packet's subject, and say when a guess is proved;
# - read from a weight update whose keys it was solved for;
# - add up vectors on a server that sees none of them.

# %%
from collections.abc import Callable, Mapping

import torch
from checks.privacy import check_masked, check_members, check_proved
from jaxtyping import Float, Int

# %% [exercise] difficulty=1 importance=5 minutes=10
# ## A guess that proves itself
#
# The server has $h$ of some packets, rounded to 16 bits. It has computed the states of a list of texts on the public
# model. For each packet return the place of the text that is proved to be its prompt, or -1 if none is. A text is
# proved if its state differs from $h$ by at most $2 \cdot 10^{-3}$ of the length of $h$: rounding explains that much,
# and another text does not.


# %%
def proved(
    h: Float[torch.Tensor, "packets d_model"], states: Float[torch.Tensor, "texts d_model"], within: float = 2e-3
) -> Int[torch.Tensor, " packets"]:
    """Return the index of each packet's text, or -1."""
    ### BEGIN SOLUTION
    apart = (h[:, None] - states).norm(dim=-1) / h.norm(dim=-1, keepdim=True)
    distance, which = apart.min(1)
    return torch.where(distance <= within, which, -1)
    ### END SOLUTION


# %%
check_proved(proved)

# %% [hint]
# A cosine will not do: a state of another length has the same direction. Take differences of all pairs, their norms,
# and the smallest one in each row.

# %% [exercise] difficulty=3 importance=5 minutes=20
# ## Whose keys are these?
#
# A client has sent only its update, $\Delta W = T(\lambda C + S)^{-1}$, with $S = \sum k k^\top$ and
# $T = \sum r k^\top$ over its facts. You have $C$ and the keys of many names. With $C = R R^\top$ and whitened keys
# $x = R^{-1} k$, every row of $\Delta W R$ is a sum of the client's $x$. Score each name by the share of its $x$ that
# lies in the span of these rows: 1 for a member, if no key was rounded. The client has `facts` facts, fewer than
# $\Delta W$ has rows.


# %%
def members(
    dW: Float[torch.Tensor, "d_model d_mlp"],
    C: Float[torch.Tensor, "d_mlp d_mlp"],
    keys: Float[torch.Tensor, "names d_mlp"],
    facts: int,
) -> Float[torch.Tensor, " names"]:
    """Return |P x|^2 / |x|^2 for each name, with P the projection on the rows of dW R."""
    ### BEGIN SOLUTION
    R = torch.linalg.cholesky(C)
    x = torch.linalg.solve_triangular(R, keys.T, upper=False).T
    basis = torch.linalg.svd(dW @ R, full_matrices=False).Vh[:facts]
    return (x @ basis.T).square().sum(1) / x.square().sum(1)
    ### END SOLUTION


# %%
check_members(members)

# %% [hint]
# An orthonormal basis of the rows is the first right singular vectors. $R$ is a Cholesky factor, so $R^{-1} k$ is the
# solution of a triangular system. Why $\Delta W R$? Write $\lambda C + S = R(\lambda I + X^\top X)R^\top$, with the $x$
# as the rows of $X$.

# %% [exercise] difficulty=2 importance=4 minutes=20
# ## Masks that cancel
#
# Clients send vectors of integers modulo $2^{64}$ to a server that may learn only their total. Each pair of clients has
# a secret seed in common. `stream(seed, n)` turns a seed into n numbers that look random. Of each pair, the client
# whose name comes first adds the stream to its vector, and the other subtracts it. Return what one client sends.
# (Tensors of `torch.int64` wrap around by themselves.)


# %%
def masked(
    name: str, vector: Int[torch.Tensor, " n"], seeds: Mapping[str, bytes], stream: Callable[[bytes, int], torch.Tensor]
) -> Int[torch.Tensor, " n"]:
    """Return the vector with all masks of this client. seeds: by the other client's name, the seed shared with it."""
    ### BEGIN SOLUTION
    for other, seed in seeds.items():
        mask = stream(seed, len(vector))
        vector = vector + mask if name < other else vector - mask
    return vector
    ### END SOLUTION


# %%
check_masked(masked)

# %% [hint]
# Both clients of a pair must agree who adds without asking each other. Names are compared like other strings, and the
# client's own name is not among the keys of `seeds`.
