# %% [markdown]
# # Exercises: start here
#
# Three exercises to [chapter 00](../00_start_here.ipynb). In each, put your lines where the function raises
# `NotImplementedError`, run the cell, and run the check below it: it says in one sentence what is off. Hints and
# solutions are folded.
#
# When you have done them you can
#
# - compute the three numbers that every table of this course reports, and say what counts once in them;
# - measure an edit without ever forming it;
# - put an edit into a model and take it out so that no bit tells.

# %%
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from checks.start_here import check_size, check_three_things, check_written
from jaxtyping import Float, Int

# %% [exercise] difficulty=1 importance=5 minutes=15
# ## Three things that a good edit does
#
# Efficacy, paraphrase and specificity are shares of comparisons won. At a question and its paraphrases the new target
# should be likelier than the true answer; at a neighbour the neighbour's own answer should be likelier than the new
# target. Each is a mean over *facts*: a fact with ten paraphrases counts as much as one with a single one, and a fact
# without any is left out. Every later table stands on these numbers.


# %%
def three_things(
    new: Float[torch.Tensor, " prompts"],
    true: Float[torch.Tensor, " prompts"],
    fact: Int[torch.Tensor, " prompts"],
    kind: Sequence[str],
) -> dict[str, float]:
    """The means over facts, as {"efficacy": ..., "paraphrase": ..., "specificity": ...}.

    new, true: log-probabilities of the new target, and of the true answer to that prompt.
    fact: the number of the fact that a prompt belongs to.
    kind: "question", "paraphrase" or "neighbour", for each prompt.
    """
    ### BEGIN SOLUTION
    found = {}
    for name, asked in {"efficacy": "question", "paraphrase": "paraphrase", "specificity": "neighbour"}.items():
        here = torch.tensor([k == asked for k in kind])
        wins = true[here] > new[here] if asked == "neighbour" else new[here] > true[here]
        shares = [wins[fact[here] == i].double().mean() for i in fact[here].unique()]
        found[name] = float(torch.stack(shares).mean())
    return found
    ### END SOLUTION


# %%
check_three_things(three_things)

# %% [hint]
# Take one kind of prompt at a time. First the share of prompts won within each fact that has some, then the mean of
# these shares. Only one of the three compares the other way round.

# %% [exercise] difficulty=2 importance=3 minutes=15
# ## The size of an edit, unopened
#
# An edit is kept as two thin matrices, and $\Delta = BA$ has as many numbers as the weight. A server that holds
# thousands of edits wants to know the norm of each, say to refuse one that is suspiciously large, and cannot afford to
# form the product. Compute the Frobenius norm of $BA$ from matrices of size $n \times n$ alone.


# %%
def size(left: Float[torch.Tensor, "d_model n"], right: Float[torch.Tensor, "n d_mlp"]) -> float:
    """The Frobenius norm of `left @ right`; no tensor larger than the two is made."""
    ### BEGIN SOLUTION
    return float(((left.T @ left) * (right @ right.T)).sum().sqrt())
    ### END SOLUTION


# %%
check_size(size)

# %% [hint]
# $|\Delta|^2 = \mathrm{tr}(\Delta^\top \Delta)$. Write $\Delta$ as $BA$, and use that a trace does not mind in which
# place a cyclic product begins. For symmetric matrices, $\mathrm{tr}(PQ)$ is a sum over entries.

# %% [exercise] difficulty=3 importance=5 minutes=20
# ## In and out again
#
# Chapter 00 claims that an edit leaves no trace: after the block every weight is what it was, bit for bit. Write that
# block for one weight matrix. Two cases decide whether it can be trusted: the code in the block may fail, and another
# edit of the same matrix may be applied inside.


# %%
@contextmanager
def written(
    weight: Float[torch.Tensor, "d_model d_mlp"], delta: Float[torch.Tensor, "d_model d_mlp"]
) -> Iterator[None]:
    """For the length of a `with` block the tensor `weight` holds W + dW; afterwards W again, bit for bit."""
    ### BEGIN SOLUTION
    original = weight.clone()
    try:
        weight.add_(delta)
        yield
    finally:
        weight.copy_(original)
    ### END SOLUTION


# %%
check_written(written)

# %% [hint]
# Is `(a + b) - b` always `a` in float32? Somebody has to remember. What stands after a `yield` does not run when the
# block raises, unless it stands in the right kind of clause.
