# %% [markdown]
# # Exercises: sharing MKVs
#
# Three exercises to [chapter 03](../03_sharing_mkvs.ipynb). Put your lines where a function raises
# `NotImplementedError`, run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - solve an edit from two sums over trajectories;
# - make a tag that tells equal from different and nothing else, to nobody but those who share a secret;
# - pack six keys into one vector and as many axes as you can afford.

# %%
import torch
from checks.sharing_mkvs import check_closed_form, check_slim, check_tag
from jaxtyping import Float

# %% [exercise] difficulty=2 importance=5 minutes=15
# ## Two sums
#
# A trajectory gives a layer the fact's keys in all contexts, and one share that each of them should be answered with.
# The bare prompt has half the weight, the prefixed ones divide the other half. Add up
# $S = \sum_i \sum_c w_c k_i^c {k_i^c}^\top$ and $T = \sum_i \sum_c w_c r_i {k_i^c}^\top$, and solve. (Bystanders are
# left out here; they would add more such terms to $S$.) Everything in chapters 05 and 06 follows from the fact that
# these are sums.


# %%
def closed_form(
    keys: Float[torch.Tensor, "facts contexts d_mlp"],
    shares: Float[torch.Tensor, "facts d_model"],
    C: Float[torch.Tensor, "d_mlp d_mlp"],
    lam: float,
) -> Float[torch.Tensor, "d_model d_mlp"]:
    """The dW = T (lam C + S)^-1 of one layer; everything is float64, and the bare prompt's key comes first."""
    ### BEGIN SOLUTION
    prefixed = keys.shape[1] - 1
    w = torch.tensor([0.5] + [0.5 / prefixed] * prefixed, dtype=keys.dtype)
    S = torch.einsum("c,icd,ice->de", w, keys, keys)
    T = torch.einsum("c,id,ice->de", w, shares, keys)
    return torch.linalg.solve(lam * C + S, T.T).T
    ### END SOLUTION


# %%
check_closed_form(closed_form)

# %% [hint]
# `torch.einsum` writes each sum as it stands: one letter for the context, one for the fact, one for each side of the
# matrix. The system is symmetric, so that $T A^{-1} = (A^{-1} T^\top)^\top$.

# %% [exercise] difficulty=2 importance=4 minutes=15
# ## A tag that does not talk
#
# Clients must see whether two packets answer one question, and the server must not see which. A tag is a function of
# the text and of a secret that the clients share. The server is curious, has all tags, and can guess likely facts; a
# client may be careless with blanks and bars in its texts. Make it so that equal tags mean equal messages, of the same
# purpose and with the same parts, and that without the secret they mean nothing. (`hashlib`, `hmac` and `json` are in
# the standard library; import what you need inside the function.)


# %%
def tag(secret: bytes, purpose: str, *parts: str) -> str:
    """64 hexadecimal digits for a message.

    purpose: what the tag is for, such as "question" or "answer". parts: subject, prompt and so on, any text.
    """
    ### BEGIN SOLUTION
    import hashlib
    import hmac
    import json

    message = json.dumps([purpose, *parts])
    return hmac.new(secret, message.encode(), hashlib.sha256).hexdigest()
    ### END SOLUTION


# %%
check_tag(tag)

# %% [hint]
# Two problems, two tools. What makes a list of texts into one text from which the list can be read again? And which
# construction mixes a secret into a hash so that it is more than the beginning of the message? (Of
# `sha256(secret + message)` somebody without the secret can compute continuations.)

# %% [exercise] difficulty=4 importance=3 minutes=25
# ## Six keys in one and a bit
#
# A packet is nearly all keys, and a fact's six keys are much alike. With their weighted mean $m$,
# $\sum_c w_c k^c {k^c}^\top = m m^\top + \sum_j d_j d_j^\top$, where the $d_j$ are few and, after the first ones,
# short. Find them, longest first, so that for any number of axes what is left out is as small as it can be. The
# library's default sends $m$ alone.


# %%
def slim(
    keys: Float[torch.Tensor, "contexts d_mlp"], weights: Float[torch.Tensor, " contexts"], axes: int
) -> tuple[Float[torch.Tensor, " d_mlp"], Float[torch.Tensor, "axes d_mlp"]]:
    """The weighted mean key m, and the first axes d_j around it; the weights add up to 1."""
    ### BEGIN SOLUTION
    mean = weights @ keys
    _, s, v = torch.linalg.svd(weights.sqrt()[:, None] * (keys - mean), full_matrices=False)
    return mean, s[:axes, None] * v[:axes]
    ### END SOLUTION


# %%
check_slim(slim)

# %% [hint]
# Write the sum around the mean as $X^\top X$. What are the rows of $X$? A singular value decomposition
# $X = U \Sigma V^\top$ then gives $X^\top X = V \Sigma^2 V^\top$, and the best approximation of any rank is its
# beginning.
