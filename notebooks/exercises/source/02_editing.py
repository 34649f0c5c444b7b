# %% [markdown]
# # Exercises: editing
#
# Three exercises to [chapter 02](../02_editing.ipynb). Put your lines where a function raises `NotImplementedError`,
# run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - write one fact exactly, at the least cost to everything else;
# - write many facts by one ridge regression, with the keys of the public code;
# - spread an edit over layers, each of which knows what the ones below have left undone.

# %%
from collections.abc import Callable, Sequence

import torch
from checks.editing import check_memit_write, check_rome_write, check_spread
from jaxtyping import Float

# %% [exercise] difficulty=2 importance=5 minutes=15
# ## One fact, exactly
#
# ROME changes a matrix so that one key is answered with a chosen value, and among all changes that do so takes the one
# with the least $\mathrm{tr}(\Delta C \Delta^\top)$: the least that ordinary text will notice. Derive it with a
# Lagrange multiplier, and write it in float64 without inverting a matrix.


# %%
def rome_write(
    W: Float[torch.Tensor, "d_model d_mlp"],
    C: Float[torch.Tensor, "d_mlp d_mlp"],
    k: Float[torch.Tensor, " d_mlp"],
    v: Float[torch.Tensor, " d_model"],
) -> Float[torch.Tensor, "d_model d_mlp"]:
    """The dW with (W + dW) k = v that disturbs the keys of ordinary text least; C is their second moment."""
    ### BEGIN SOLUTION
    u = torch.linalg.solve(C, k)
    return torch.outer(v - W @ k, u) / (u @ k)
    ### END SOLUTION


# %%
check_rome_write(rome_write)

# %% [hint]
# The gradient of $\mathrm{tr}(\Delta C \Delta^\top)$ is $2\Delta C$, that of a constraint $\Delta k = r$ is
# $\mu k^\top$. So every row of $\Delta$ is a multiple of one vector, which is not $k$. The constraint then fixes the
# multiples.

# %% [exercise] difficulty=3 importance=5 minutes=20
# ## Many facts, nearly
#
# Exact constraints fight when there are many. MEMIT minimises
# $|\Delta K^\top - R^\top|^2 + \lambda\,\mathrm{tr}(\Delta C \Delta^\top)$ instead. A fact's key is half the bare
# prompt's and half the mean of the prefixed ones. What comes from the model is float32. The system is badly conditioned
# on real keys, so that it is solved in float64.


# %%
def memit_write(
    z: Float[torch.Tensor, "facts d_model"],
    h: Float[torch.Tensor, "facts d_model"],
    keys: Float[torch.Tensor, "facts contexts d_mlp"],
    C: Float[torch.Tensor, "d_mlp d_mlp"],
    lam: float,
) -> Float[torch.Tensor, "d_model d_mlp"]:
    """The dW of one layer that moves each fact's state from h towards z, in float64.

    keys: of each context, the bare prompt's first; in float32, as z and h are.
    """
    ### BEGIN SOLUTION
    keys = keys.double()
    K = (keys[:, 0] + keys[:, 1:].mean(1)) / 2
    R = z.double() - h.double()
    return torch.linalg.solve(lam * C + K.T @ K, K.T @ R).T
    ### END SOLUTION


# %%
check_memit_write(memit_write)

# %% [hint]
# With facts in rows, $K$ is `(facts, d_mlp)`. Set the gradient to zero and look at which side of $\Delta$ the system
# stands on; transposing gives a call of `torch.linalg.solve`. Subtract z and h when both are float64 already.

# %% [exercise] difficulty=4 importance=4 minutes=20
# ## Several layers
#
# A ridge never reaches $z$: $\lambda C$ pulls back. So MEMIT spreads: with $m$ layers still to go, a layer is asked for
# $(z - h_L)/m$, where keys and $h_L$ are read again from the model as edited so far. What one layer leaves undone the
# next ones share. Here the model is a small network that runs in no time; `read` runs it with any changes written.


# %%
def spread(
    layers: Sequence[int], z: Float[torch.Tensor, "facts d_model"], read: Callable, solve: Callable
) -> dict[int, Float[torch.Tensor, "d_model d_mlp"]]:
    """The change of each edited layer, from the lowest up.

    read(changes, layer): the keys of `layer`, (facts, d_mlp), and the states after the last layer, (facts, d_model),
        of the model with `changes` written, {layer: dW}.
    solve(layer, keys, wanted): the dW of a layer that answers keys with `wanted`, as far as the ridge lets it.
    """
    ### BEGIN SOLUTION
    changes = {}
    for i, layer in enumerate(layers):
        keys, states = read(changes, layer)
        changes[layer] = solve(layer, keys, (z - states) / (len(layers) - i))
    return changes
    ### END SOLUTION


# %%
check_spread(spread)

# %% [hint]
# One loop. What is `changes` when the first layer is read, and what when the second is? How many layers are still to go
# for the first of three, counting itself?
