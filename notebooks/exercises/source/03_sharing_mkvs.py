# %% [markdown]
# # Exercises: sharing MKVs
#
# Three exercises on [chapter 03](../03_sharing_mkvs.ipynb). Put your lines where a function raises
# `NotImplementedError`, run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - solve an edit from two sums over trajectories;
# - make a tag that shows only whether two messages are equal, and that nobody can compute without the secret;
# - pack six keys into one vector and as many axes as you can afford.

# %%
import torch
from checks.sharing_mkvs import check_closed_form, check_slim, check_tag
from jaxtyping import Float

# %% [exercise] difficulty=2 importance=5 minutes=15
# ## Two sums
#
# For each layer a trajectory holds the fact's keys in all contexts, and one share: the output change that each of these
# keys should produce. The bare prompt has half the weight, and the prefixed ones divide the other half equally. Add up
# $S = \sum_i \sum_c w_c k_i^c {k_i^c}^\top$ and $T = \sum_i \sum_c w_c r_i {k_i^c}^\top$, and solve. (Bystanders are
# left out here; they would add more such terms to $S$.) Chapters 05 and 06 build on the fact that these are sums.


# %%
def closed_form(
    keys: Float[torch.Tensor, "facts contexts d_mlp"],
    shares: Float[torch.Tensor, "facts d_model"],
    C: Float[torch.Tensor, "d_mlp d_mlp"],
    lam: float,
) -> Float[torch.Tensor, "d_model d_mlp"]:
    """Return dW = T (lam C + S)^-1 of one layer; everything is float64, and the bare prompt's key comes first."""
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
# `torch.einsum` can express each sum directly: use one letter for the context, one for the fact, and one for each side
# of the matrix. The matrix $A = \lambda C + S$ is symmetric, therefore $T A^{-1} = (A^{-1} T^\top)^\top$.

# %% [exercise] difficulty=2 importance=4 minutes=15
# ## A tag that reveals only equality
#
# Clients must see whether two packets answer the same question. The server must not learn which question it is. A tag
# is a function of the text and of a secret that the clients share. The server is curious, has all tags, and can guess
# likely facts. A client's texts may contain any character, also blanks and bars. Write `tag` with two properties: two
# tags are equal only for messages with the same purpose and the same parts, and nobody can compute or check a tag
# without the secret. (`hashlib`, `hmac` and `json` are in the standard library; import what you need inside the
# function.)


# %%
def tag(secret: bytes, purpose: str, *parts: str) -> str:
    """Return the tag of a message, 64 hexadecimal digits.

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

# %% [hidden]
from checks.algebra import dice
from checks.verdict import expect

draw = dice(0)
messages = {
    (draw.choice((b"one", b"two")), draw.choice(("question", "answer")), *draw.choices(("", "a", '"', ", ", "|"), k=n))
    for n in (1, 2, 3)
    for _ in range(60)
}
tags = {tag(*message) for message in messages}
expect(len(tags) == len(messages), f"{len(messages)} different messages have {len(tags)} different tags.")

# %% [hint]
# There are two problems, and each has its tool. How can you turn a list of texts into one text from which the list can
# be read back? Which construction mixes a secret into a hash safely? (Putting the secret in front is not enough: from
# `sha256(secret + message)` somebody without the secret can compute the hash of a longer message.)

# %% [exercise] difficulty=4 importance=3 minutes=25
# ## Six keys as one mean and a few axes
#
# Keys take up nearly all of a packet, and a fact's six keys are similar. With their weighted mean $m$,
# $\sum_c w_c k^c {k^c}^\top = m m^\top + \sum_j d_j d_j^\top$. There are only a few axes $d_j$, and all but the first
# ones are short. Find the axes, longest first. For any number of axes, the part that is left out must be as small as
# possible. The library's default sends $m$ and four axes (of the spread and the bystanders together).


# %%
def slim(
    keys: Float[torch.Tensor, "contexts d_mlp"], weights: Float[torch.Tensor, " contexts"], axes: int
) -> tuple[Float[torch.Tensor, " d_mlp"], Float[torch.Tensor, "axes d_mlp"]]:
    """Return the weighted mean key m and the first axes d_j around it; the weights add up to 1."""
    ### BEGIN SOLUTION
    mean = weights @ keys
    _, s, v = torch.linalg.svd(weights.sqrt()[:, None] * (keys - mean), full_matrices=False)
    return mean, s[:axes, None] * v[:axes]
    ### END SOLUTION


# %%
check_slim(slim)

# %% [hint]
# Write the sum around the mean as $X^\top X$. What are the rows of $X$? A singular value decomposition
# $X = U \Sigma V^\top$ then gives $X^\top X = V \Sigma^2 V^\top$. Its first terms are the best approximation of any
# given rank.
