# %% [markdown]
# # Exercises: locating knowledge
#
# Three exercises to [chapter 01](../01_locating_knowledge.ipynb). Put your lines where a function raises
# `NotImplementedError`, run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - corrupt a subject as ROME does, no more and no less;
# - restore a window of MLPs in a real model, and get the number of the library's trace;
# - say how sure an average over facts is.

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
    """The next token's probabilities while modules return something else: `{module: function of its output}`."""
    with torch.no_grad(), rewrite(changes):
        return lm.model(ids).logits[0, -1].softmax(-1)


# %% [exercise] difficulty=1 importance=4 minutes=10
# ## Breaking the memory of a subject
#
# Everything in a trace is measured against the corrupted run, so that a slip here is in every later number. As in
# ROME's public code several runs share a batch: row 0 is the clean run, every other row gets noise of its own on the
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
# Begin with noise that is zero everywhere. A slice in Python ends before its end; the subject's last token is the one
# that matters most.

# %% [exercise] difficulty=3 importance=5 minutes=25
# ## A window of MLPs
#
# One MLP of thirty rarely shows, so that the literature's figures restore several together. Write the pass behind one
# point of the middle panel of chapter 01: the noise is in, and at one token the MLPs around a layer return what they
# returned in the clean run. All else follows from the noise. `run` above does the forward pass.


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

    noisy: what becomes of the output of `lm.embeddings`. clean: what `lm.projection(i)` returned in the clean run.
    The window begins `window // 2` layers below `layer`; what the model does not have of it is left out.
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

# %% [hint]
# `run` takes a dictionary from modules to functions: one entry for the embeddings, one for each layer of the window. A
# function made in a loop sees the loop's last value, unless another function makes it. Which layers does the window
# have around layer 1?

# %% [exercise] difficulty=2 importance=5 minutes=15
# ## How sure is an average?
#
# Two facts can differ more than two layers do. A bootstrap asks how far the mean would move with other facts: draw as
# many facts again, with replacement, take the mean, do this many times, and look at where the middle 95% of the means
# lie. Some facts have no token of the class in question; their rows are not numbers.


# %%
def average(
    indirect: Float[Tensor, "facts layers"], draws: int, seed: int
) -> tuple[Float[Tensor, " layers"], Float[Tensor, " layers"], Float[Tensor, " layers"]]:
    """Mean over facts, and the lower and upper end of its 95% percentile bootstrap interval, layer by layer.

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
# A tensor of indices, draws by facts, picks all draws at once, and all layers of a fact come along. Which axis is then
# the facts', over which the mean is taken, and which the draws', over which the quantiles are?
