# %% [markdown]
# # Exercises: start here
#
# Three exercises on [chapter 00](../00_start_here.ipynb). In each, put your lines where the function raises
# `NotImplementedError`, run the cell, and run the check below it. The check says in one sentence what is wrong. Hints
# and solutions are folded.
#
# When you have done them you can
#
# - compute the three numbers that every table of this course reports, and say over what each is a mean;
# - compute the norm of an edit without forming its matrix;
# - apply an edit to a model and remove it again, bit for bit.

# %%
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from checks.start_here import check_size, check_three_things, check_written
from jaxtyping import Float, Int

# %% [exercise] difficulty=1 importance=5 minutes=15
# ## Three things that a good edit does
#
# Efficacy, paraphrase and specificity are shares of comparisons won. At a question and at its paraphrases, the new
# target should be likelier than the true answer. At a neighbour, the neighbour's own answer should be likelier than the
# new target. Each share is a mean over *facts*: a fact with ten paraphrases counts as much as a fact with one, and a
# fact that has none is left out. Every later table reports these numbers.


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

# %% [hidden]
from checks.algebra import dice, normal
from checks.verdict import expect

asked, draw = ("question", "paraphrase", "neighbour"), dice(0)
rows = [(i, kind) for i in range(9) for kind in asked for _ in range(draw.randrange(4) if i else 1)]
draw.shuffle(rows)
new, true = normal(len(rows), seed=1), normal(len(rows), seed=2)
found = three_things(new, true, torch.tensor([i for i, _ in rows]), [kind for _, kind in rows])
for name, kind in zip(("efficacy", "paraphrase", "specificity"), asked, strict=True):
    wins = {}
    for row, ahead in zip(rows, (new - true).tolist(), strict=True):
        if row[1] == kind:
            wins.setdefault(row[0], []).append(ahead < 0 if kind == "neighbour" else ahead > 0)
    wanted = sum(sum(own) / len(own) for own in wins.values()) / len(wins)
    expect(abs(found[name] - wanted) < 1e-6, f"{name} of nine random facts is {found[name]:.3f}, not {wanted:.3f}.")

# %% [hint]
# Take one kind of prompt at a time. First compute the share of prompts won within each fact that has prompts of this
# kind, then the mean of these shares. Only one of the three numbers compares the other way round.

# %% [exercise] difficulty=2 importance=3 minutes=15
# ## The norm of an edit without its product
#
# An edit is stored as two thin matrices, and their product $\Delta = BA$ has as many numbers as the weight. A server
# with thousands of edits needs the norm of each, for example to refuse one that is suspiciously large, and cannot
# afford to form the products. Compute the Frobenius norm of $BA$ from matrices of size $n \times n$ alone.


# %%
def size(left: Float[torch.Tensor, "d_model n"], right: Float[torch.Tensor, "n d_mlp"]) -> float:
    """The Frobenius norm of `left @ right`, without creating a tensor larger than these two."""
    ### BEGIN SOLUTION
    return float(((left.T @ left) * (right @ right.T)).sum().sqrt())
    ### END SOLUTION


# %%
check_size(size)

# %% [hint]
# $|\Delta|^2 = \mathrm{tr}(\Delta^\top \Delta)$. Write $\Delta$ as $BA$, and use that the trace of a product stays the
# same under cyclic shifts of its factors. For symmetric matrices, $\mathrm{tr}(PQ)$ is a sum over entries.

# %% [exercise] difficulty=3 importance=5 minutes=20
# ## Apply and remove
#
# Chapter 00 claims that an edit leaves no trace: after the `with` block every weight is what it was, bit for bit. Write
# the context manager of such a block for one weight matrix. It must also work in two harder cases: the code in the
# block raises an error, or another edit of the same matrix is applied inside the block.


# %%
@contextmanager
def written(
    weight: Float[torch.Tensor, "d_model d_mlp"], delta: Float[torch.Tensor, "d_model d_mlp"]
) -> Iterator[None]:
    """Within a `with` block the tensor `weight` holds W + dW; afterwards it holds W again, bit for bit."""
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
# Is `(a + b) - b` always `a` in float32? If not, what must be saved? Code after a `yield` does not run when the block
# raises an error, unless it is in the right kind of clause.
