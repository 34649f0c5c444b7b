# %% [markdown]
# # Exercises: locating knowledge
#
# Three exercises on [chapter 01](../01_locating_knowledge.ipynb). Put your lines where a function raises
# `NotImplementedError`, run the cell, then run the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - corrupt a subject exactly as ROME does;
# - restore a window of MLPs in a real model, and get the same number as the library's trace;
# - say how certain an average over facts is.

# %%
from collections.abc import Callable, Mapping

import torch
from checks.locating_knowledge import check_average, check_corrupted, check_restored
from jaxtyping import Float, Int
from torch import Tensor, nn

import fleke_lib as fleke
from fleke_lib.model import rewrite

lm = fleke.load_model()
fact = next(fact for fact in fleke.load_facts("atlas") if fact.subject == "Prozac")


def run(ids: Int[Tensor, "1 tokens"], changes: Mapping[nn.Module, Callable]) -> Float[Tensor, " vocabulary"]:
    """The next token's probabilities while outputs of modules are replaced: `{module: function of its output}`."""
    with torch.no_grad(), rewrite(changes):
        return lm.model(ids).logits[0, -1].softmax(-1)


# %% [exercise] difficulty=1 importance=4 minutes=10
# ## Corrupting the subject
#
# Everything in a trace is measured against the corrupted run, so a mistake here changes every later number. As in
# ROME's public code, several runs share a batch. Row 0 is the clean run, and every other row gets its own noise on the
# subject's tokens. The noise has three standard deviations of the embedding table.


# %%
def corrupted(
    embedded: Float[Tensor, "rows tokens d_model"],
    table: Float[Tensor, "vocabulary d_model"],
    subject: tuple[int, int],
    drawn: Float[Tensor, "noisy length d_model"],
) -> Float[Tensor, "rows tokens d_model"]:
    """The embeddings with noise on the subject, in all rows but the first.

    subject: positions of its first and its last token.
    drawn: standard normal numbers, for `rows - 1` noisy rows.
    """
    ### BEGIN SOLUTION
    first, last = subject
    noise = torch.zeros_like(embedded)
    noise[1:, first : last + 1] = 3 * table.std() * drawn
    return embedded + noise
    ### END SOLUTION


# %%
check_corrupted(corrupted)

# %% [hint]
# Begin with noise that is zero everywhere. A slice in Python does not include its end index, and the subject's last
# token is the one that matters most.

# %% [exercise] difficulty=3 importance=5 minutes=25
# ## A window of MLPs
#
# One MLP out of thirty rarely has a visible effect, so the figures of the literature restore several together. Write
# the forward pass behind one point of the middle panel of chapter 01: the subject is corrupted, and at one token the
# MLPs around a layer return what they returned in the clean run. Everything else is computed from the corrupted
# embeddings. `run` above does the forward pass.


# %%
def restored(
    lm: fleke.LanguageModel,
    ids: Int[Tensor, "1 tokens"],
    noisy: Callable[[Tensor], Tensor],
    clean: Mapping[int, Float[Tensor, "1 tokens d_model"]],
    layer: int,
    token: int,
    window: int,
) -> Float[Tensor, " vocabulary"]:
    """The next token's probabilities when the MLPs of `window` layers around `layer` are restored at one token.

    noisy: corrupts the output of `lm.embeddings`. clean: what `lm.projection(i)` returned in the clean run.
    The window begins `window // 2` layers below `layer`; layers that the model does not have are left out.
    """

    ### BEGIN SOLUTION
    def put_back(state):
        return lambda output: torch.cat([output[:, :token], state[:, token : token + 1], output[:, token + 1 :]], 1)

    lowest = layer - window // 2
    changes = {lm.embeddings: noisy}
    for i in range(max(0, lowest), min(lm.n_layers, lowest + window)):
        changes[lm.projection(i)] = put_back(clean[i])
    return run(ids, changes)
    ### END SOLUTION


# %%
check_restored(restored, lm, fact)

# %% [hidden]
from checks.algebra import dice

check_restored(restored, lm, dice(0).choice(fleke.known_facts(lm, fleke.load_facts("atlas", 20))))

# %% [hint]
# `run` takes a dictionary from modules to functions: one entry for the embeddings, and one for each layer of the
# window. A function defined in a loop sees the last value of the loop variable. To avoid this, create it in another
# function that takes the value as an argument. Which layers does the window have around layer 1?

# %% [exercise] difficulty=2 importance=5 minutes=15
# ## How certain is an average?
#
# Two facts can differ more than two layers do. A bootstrap estimates how far the mean would move with other facts: draw
# the same number of facts with replacement, take their mean, repeat this many times, and find the interval that holds
# the middle 95% of the means. Some facts have no token of the class in question; their rows are nan.


# %%
def average(
    indirect: Float[Tensor, "facts layers"], draws: int, seed: int
) -> tuple[Float[Tensor, " layers"], Float[Tensor, " layers"], Float[Tensor, " layers"]]:
    """Mean over facts, and the lower and upper end of its 95% percentile bootstrap interval, for each layer.

    The same seed gives the same interval. A row of nan is a fact without a value.
    """
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(indirect), (draws, len(indirect)), generator=generator)
    means = indirect[drawn].nanmean(1)
    low, high = means.nanquantile(torch.tensor([0.025, 0.975], dtype=means.dtype), 0)
    return indirect.nanmean(0), low, high
    ### END SOLUTION


# %%
check_average(average)

# %% [hint]
# Indexing with a tensor of shape (draws, facts) selects all draws at once, each fact with all its layers. In the
# result, over which axis is the mean of the facts taken, and over which axis the quantiles of the draws?
