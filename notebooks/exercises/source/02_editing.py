# %% [markdown]
# # Exercises: editing
#
# Three exercises on [chapter 02](../02_editing.ipynb). Put your lines where a function raises `NotImplementedError`,
# run the cell, then run the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - write one fact exactly, with the least disturbance of other keys;
# - write many facts by one ridge regression, with keys averaged as in MEMIT's public code;
# - spread an edit over several layers, each taking a share of the remaining error.

# %%
from collections.abc import Callable, Sequence

import torch
from checks.editing import check_memit_write, check_rome_write, check_spread
from jaxtyping import Float

# %% [exercise] difficulty=2 importance=5 minutes=15
# ## One fact, exactly
#
# ROME changes a matrix so that it maps one key to a chosen value. Among all changes that do so, it takes the one with
# the smallest $\mathrm{tr}(\Delta C \Delta^\top)$, which disturbs the keys of ordinary text least. Derive it with a
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
# The gradient of $\mathrm{tr}(\Delta C \Delta^\top)$ is $2\Delta C$, and the constraint $\Delta k = r$ contributes
# $\mu k^\top$. So every row of $\Delta$ is a multiple of one vector, which is not $k$. The constraint then fixes the
# multiples.

# %% [exercise] difficulty=3 importance=5 minutes=20
# ## Many facts, nearly
#
# Many exact constraints conflict with each other. MEMIT instead minimises
# $|\Delta K^\top - R^\top|^2 + \lambda\,\mathrm{tr}(\Delta C \Delta^\top)$. The key of a fact is the average of two
# keys: the bare prompt's key, and the mean key of the prefixed prompts. Keys and states come from the model in float32.
# With real keys the linear system is badly conditioned, so solve it in float64.


# %%
def memit_write(
    z: Float[torch.Tensor, "facts d_model"],
    h: Float[torch.Tensor, "facts d_model"],
    keys: Float[torch.Tensor, "facts contexts d_mlp"],
    C: Float[torch.Tensor, "d_mlp d_mlp"],
    lam: float,
) -> Float[torch.Tensor, "d_model d_mlp"]:
    """The dW of one layer that moves each fact's state from h towards z, in float64.

    keys: one for each context, the bare prompt's first; in float32, like z and h.
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
# With facts in rows, $K$ is `(facts, d_mlp)`. Set the gradient to zero and check on which side of $\Delta$ the matrix
# is; transpose the equation to use `torch.linalg.solve`. Convert z and h to float64 before you subtract them.

# %% [exercise] difficulty=4 importance=4 minutes=20
# ## Several layers
#
# A ridge regression never reaches $z$, because $\lambda C$ shrinks what it writes. So MEMIT spreads the edit: with $m$
# layers still to go, a layer is asked for $(z - h_L)/m$, where keys and $h_L$ are read again from the model as edited
# so far. Later layers split the remaining error. Here the model is a small network that runs quickly; `read` runs it
# with any set of changes applied.


# %%
def spread(
    layers: Sequence[int], z: Float[torch.Tensor, "facts d_model"], read: Callable, solve: Callable
) -> dict[int, Float[torch.Tensor, "d_model d_mlp"]]:
    """The change of each edited layer, starting with the lowest.

    read(changes, layer): the keys of `layer`, (facts, d_mlp), and the states after the last layer, (facts, d_model),
        of the model with `changes` applied, {layer: dW}.
    solve(layer, keys, wanted): the dW of a layer that maps keys to `wanted`, as closely as the ridge term allows.
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
# One loop is enough. What does `changes` contain when the first layer is read, and when the second is? For the first of
# three layers, how many are still to go, counting itself?
