# %% [markdown]
# # Exercises: federated unlearning
#
# Three exercises to [chapter 06](../06_federated_unlearning.ipynb). Put your lines where a function raises
# `NotImplementedError`, run the cell, then the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - withdraw a client from an edit exactly, with nothing but its sums;
# - do it again without solving again;
# - delete rows from a database so that no byte of them is left in its files.

# %%
import sqlite3
from collections.abc import Callable

import torch
from checks.federated_unlearning import check_downdated, check_erased, check_withdrawn
from jaxtyping import Float

# %% [exercise] difficulty=2 importance=5 minutes=10
# ## What is subtracted
#
# A client leaves. Its update was solved alone and can be taken off the weights, which is what one would try first, and
# wrong by much of the client's effect. The server has kept $S$ and $T$ of everybody. Find the weights of a federation
# that the client never joined.


# %%
def withdrawn(
    S: Float[torch.Tensor, "d_mlp d_mlp"],
    T: Float[torch.Tensor, "d_model d_mlp"],
    keys: Float[torch.Tensor, "gone d_mlp"],
    shares: Float[torch.Tensor, "gone d_model"],
    C: Float[torch.Tensor, "d_mlp d_mlp"],
    lam: float,
) -> Float[torch.Tensor, "d_model d_mlp"]:
    """dW = T (lam C + S)^-1 as it would be without the facts that leave.

    S, T: sums over everybody's facts, of key by key and share by key. keys, shares: of those that leave.
    """
    ### BEGIN SOLUTION
    S = S - keys.T @ keys
    T = T - shares.T @ keys
    return torch.linalg.solve(lam * C + S, T.T).T
    ### END SOLUTION


# %%
check_withdrawn(withdrawn)

# %% [hint]
# Which of the things that went into the weights is a sum over facts? The weights themselves are none.

# %% [exercise] difficulty=4 importance=4 minutes=25
# ## Without solving again
#
# Factorising $A = \lambda C + S$ is what takes time, and its factor is still there. Four facts leave:
# $A' = A - K^\top K$ differs from $A$ by a matrix of rank 4. Woodbury's identity says
# $A'^{-1} = A^{-1} + G (I - K G)^{-1} G^\top$ with $G = A^{-1} K^\top$. Chapter 06 does this for one fact; do it for
# several, with no system larger than their number.


# %%
def downdated(
    solve: Callable[[Float[torch.Tensor, "d_mlp columns"]], Float[torch.Tensor, "d_mlp columns"]],
    dW: Float[torch.Tensor, "d_model d_mlp"],
    keys: Float[torch.Tensor, "gone d_mlp"],
    shares: Float[torch.Tensor, "gone d_model"],
) -> Float[torch.Tensor, "d_model d_mlp"]:
    """dW without the facts that leave. solve(b) is A^-1 b with the factor of everybody's A; ask for few columns."""
    ### BEGIN SOLUTION
    G = solve(keys.T)
    inner = torch.eye(len(keys), dtype=keys.dtype) - keys @ G
    missing = shares - keys @ dW.T
    return dW - missing.T @ torch.linalg.solve(inner, G.T)
    ### END SOLUTION


# %%
check_downdated(downdated)

# %% [hint]
# Start from $\Delta' = (T - R^\top K) A'^{-1}$ and put the identity in. Four terms appear; $T A^{-1}$ is $\Delta$, and
# $K G = I - (I - K G)$ lets the rest collapse into one term: what these facts were still missing, over what they left
# to the others.

# %% [exercise] difficulty=3 importance=4 minutes=20
# ## The bytes
#
# A registry keeps vectors in SQLite, in write-ahead mode, and other connections have it open. A client withdraws.
# `DELETE` marks its rows' bytes as free and leaves them there; and beside the database lies a log of everything that
# was written lately. Delete so that a search of all files finds nothing. (What the disk itself keeps of freed blocks is
# out of SQLite's reach, and so are backups.)


# %%
def erased(db: sqlite3.Connection, client: str) -> None:
    """Delete a client's rows from the table `packets (client, vector)`, and their bytes from all of SQLite's files."""
    ### BEGIN SOLUTION
    db.execute("PRAGMA secure_delete = ON")
    with db:
        db.execute("DELETE FROM packets WHERE client = ?", (client,))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ### END SOLUTION


# %%
check_erased(erased)

# %% [hint]
# Two pragmas of SQLite: one that overwrites with zeros what is deleted *from then on*, and one that writes the log into
# the database and cuts it off. The second cannot run inside a transaction. A connection of Python's `sqlite3` commits
# when a `with` block over it ends.
