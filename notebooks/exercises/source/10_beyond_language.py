# %% [markdown]
# # Exercises: beyond language
#
# Three exercises on [chapter 10](../10_beyond_language.ipynb). Put your lines where a function raises
# `NotImplementedError`, run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - put one state of a picture's run into another's;
# - take a film out of some users' recommendations by one regression;
# - score every example's membership by a likelihood ratio.

# %%
from collections.abc import Callable, Sequence

import torch
from checks.beyond_language import check_likelihood_ratios, check_lowered, check_patched
from jaxtyping import Bool, Float
from torch import Tensor

# %% [exercise] difficulty=2 importance=4 minutes=15
# ## One state of the faulty picture
#
# A model is a list of layers. Each is a function from the states of all tokens to their new states. `healthy` and
# `faulty` are the states that enter the first layer for two pictures. Run the healthy picture, but after layer `layer`
# (counted from 0) give `token` the state that it has there in the faulty picture's run. Return the states after the
# last layer. This is one cell of the map in chapter 10.


# %%
def patched(
    layers: Sequence[Callable[[Tensor], Tensor]],
    healthy: Float[Tensor, "tokens d"],
    faulty: Float[Tensor, "tokens d"],
    layer: int,
    token: int,
) -> Float[Tensor, "tokens d"]:
    """Return the healthy run's last states, with one state of the faulty run in it."""
    ### BEGIN SOLUTION
    for number, run in enumerate(layers):
        healthy, faulty = run(healthy), run(faulty)
        if number == layer:
            healthy = healthy.clone()
            healthy[token] = faulty[token]
    return healthy
    ### END SOLUTION


# %%
check_patched(patched)

# %% [hint]
# Both pictures must run up to the layer, because the state after it depends on the layers below. A layer mixes tokens.
# The other tokens' states come from the healthy run, before and after.

# %% [exercise] difficulty=3 importance=4 minutes=15
# ## A film for some
#
# A film should leave the first ten of a few users, and everybody else should notice as little as possible. The edit
# changes one row of $W$, so it is one vector $\delta$. For user $i$ of the few, with key $k_i$, the score must fall by
# $f_i$: $\delta^\top k_i = -f_i$. Everybody else's keys have the second moment $C$. Minimise
# $\sum_i (\delta^\top k_i + f_i)^2 + \lambda\, \delta^\top C \delta$.


# %%
def lowered(
    keys: Float[torch.Tensor, "users d"],
    falls: Float[torch.Tensor, " users"],
    C: Float[torch.Tensor, "d d"],
    lam: float,
) -> Float[torch.Tensor, " d"]:
    """The change of a film's row that lowers its score by `falls` for `keys`, and little for keys with moment C."""
    ### BEGIN SOLUTION
    S = keys.T @ keys
    T = -falls @ keys
    return torch.linalg.solve(lam * C + S, T)
    ### END SOLUTION


# %%
check_lowered(lowered)

# %% [hint]
# It is the closed form with one row of values: the value of user $i$ is $-f_i$. Write down $S$ and $T$.

# %% [exercise] difficulty=3 importance=5 minutes=20
# ## Example by example
#
# The membership audit scores every example alone. Shadow models give each example two normal distributions of its
# confidence: over the models with it in their data, and over those without. The score of a victim's confidence is the
# log of the ratio of the two densities. Compute it for all examples.


# %%
def likelihood_ratios(
    shadow: Float[torch.Tensor, "models examples"],
    inside: Bool[torch.Tensor, "models examples"],
    victim: Float[torch.Tensor, " examples"],
) -> Float[torch.Tensor, " examples"]:
    """log N(c; mu_in, s_in) - log N(c; mu_out, s_out) of each example, with standard deviations that divide by n - 1.

    shadow: confidences of the shadow models. inside: who was in their data. victim: confidences of the attacked model.
    """
    ### BEGIN SOLUTION
    scores = []
    for column, member, confidence in zip(shadow.T, inside.T, victim, strict=True):
        groups = column[member], column[~member]
        inner, outer = (torch.distributions.Normal(group.mean(), group.std()) for group in groups)
        scores.append(inner.log_prob(confidence) - outer.log_prob(confidence))
    return torch.stack(scores)
    ### END SOLUTION


# %%
check_likelihood_ratios(likelihood_ratios)

# %% [hint]
# Take one example, one column of `shadow`, at a time. `torch.distributions.Normal(mean, deviation).log_prob(c)` is the
# logarithm of the density.
