# %% [markdown]
# # Exercises: federated unlearning
#
# These are three exercises to [chapter 06](../06_federated_unlearning.ipynb). Write your lines where a function raises
# `NotImplementedError`, run the cell, then run the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - compute the Newton step of a withdrawal from what the remaining hospitals send;
# - correct it for hospitals that take several steps in a round;
# - measure whether members can be told from others, without comparing all pairs.

# %%
import torch
from checks.federated_unlearning import check_auc, check_newton, check_round
from jaxtyping import Bool, Float

# %% [exercise] difficulty=2 importance=5 minutes=15
# ## The step of those who stay
#
# Some hospitals leave. Every hospital has computed the gradient and the Hessian of its own objective, its mean over its
# patients, at the present weights. Take the Newton step to the weights that those who stay would reach alone.


# %%
def newton_step(
    w: Float[torch.Tensor, "d"],
    gradients: Float[torch.Tensor, "hospitals d"],
    hessians: Float[torch.Tensor, "hospitals d d"],
    patients: Float[torch.Tensor, "hospitals"],
    stays: Bool[torch.Tensor, "hospitals"],
) -> Float[torch.Tensor, "d"]:
    """The weights after one Newton step on the mean over all patients of the hospitals that stay."""
    ### BEGIN SOLUTION
    share = patients[stays] / patients[stays].sum()
    g = torch.einsum("i,id->d", share, gradients[stays])
    H = torch.einsum("i,ide->de", share, hessians[stays])
    return w - torch.linalg.solve(H, g)
    ### END SOLUTION


# %%
check_newton(newton_step)

# %% [hint]
# A hospital with more patients counts for more. Which hospitals' Hessians belong into the mean?

# %% [exercise] difficulty=4 importance=4 minutes=20
# ## The equation of the round
#
# Now each hospital takes several steps in a round, and training ends where one more round of those who stay changes
# nothing, $F(v) = v$. Each hospital that stays sends $\varphi_i(w)$, the weights after its own steps from $w$, and its
# derivative $J_i$ there. Chapter 06 derives the step: to first order, $F(w) + J\delta = w + \delta$.


# %%
def round_step(
    w: Float[torch.Tensor, "d"],
    after: Float[torch.Tensor, "hospitals d"],
    jacobians: Float[torch.Tensor, "hospitals d d"],
    patients: Float[torch.Tensor, "hospitals"],
) -> Float[torch.Tensor, "d"]:
    """The weights at which one more round changes nothing, to first order. after: phi_i(w) of the hospitals that stay.

    jacobians: row d, column e holds the derivative of phi_i's number d by w's number e.
    """
    ### BEGIN SOLUTION
    share = patients / patients.sum()
    F = torch.einsum("i,id->d", share, after)
    J = torch.einsum("i,ide->de", share, jacobians)
    return w + torch.linalg.solve(torch.eye(len(w), dtype=w.dtype) - J, F - w)
    ### END SOLUTION


# %%
check_round(round_step)

# %% [hint]
# Bring both terms with $\delta$ to one side. What does a round change at $w$? What is left of a shift after a round?

# %% [exercise] difficulty=3 importance=4 minutes=15
# ## Can anybody tell?
#
# An attack gives every patient a score; members should have higher ones. The AUC is the probability that a member's
# score is higher than that of somebody who was never there, where a tie counts as a half. There can be too many pairs
# to compare them all. Compute the AUC without a tensor that has a number for every pair.


# %%
def auc(members: Float[torch.Tensor, "m"], others: Float[torch.Tensor, "n"]) -> float:
    """The probability that a member's score exceeds another's; ties count as a half."""
    ### BEGIN SOLUTION
    others = others.sort().values
    below = torch.searchsorted(others, members)
    up_to = torch.searchsorted(others, members, right=True)
    return float((below + up_to).double().mean() / (2 * len(others)))
    ### END SOLUTION


# %%
check_auc(auc)

# %% [hint]
# If the others' scores are sorted, the place at which a member's score would be inserted is the number of lower ones.
# With ties there are two such places.
