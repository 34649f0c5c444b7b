# %% [markdown]
# # Exercises: withdrawal
#
# These are three exercises to [chapter 06b](../06b_withdrawal.ipynb). Write your lines where a function raises
# `NotImplementedError`, run the cell, then run the check below it. Hints and solutions are folded.
#
# When you have done them you can
#
# - withdraw a client from an edit exactly, using only its sums;
# - do the same without solving again;
# - delete rows from a database so that none of their bytes is left in its files.

# %%
import sqlite3
from collections.abc import Callable

import torch
from checks.withdrawal import check_downdated, check_erased, check_withdrawn
from jaxtyping import Float

# %% [exercise] difficulty=2 importance=5 minutes=10
# ## What is subtracted
#
# A client leaves. The obvious first try is to subtract the update that its facts give when they are solved alone. That
# is wrong by a large part of the client's effect. The server has kept the sums $S$ and $T$ over everybody's facts. Find
# the weights of a federation that the client never joined.


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

    S, T: sums over everybody's facts, of key times key and share times key. keys, shares: of the facts that leave.
    """
    ### BEGIN SOLUTION
    S = S - keys.T @ keys
    T = T - shares.T @ keys
    return torch.linalg.solve(lam * C + S, T.T).T
    ### END SOLUTION


# %%
check_withdrawn(withdrawn)

# %% [hint]
# Which of the quantities that the weights are solved from are sums over facts? The weights themselves are not.

# %% [exercise] difficulty=4 importance=4 minutes=25
# ## Without solving again
#
# The expensive part is to factorise $A = \lambda C + S$, and we still have that factor. Four facts leave, and
# $A' = A - K^\top K$ differs from $A$ by a matrix of rank 4. Woodbury's identity says
# $A'^{-1} = A^{-1} + G (I - K G)^{-1} G^\top$ with $G = A^{-1} K^\top$. Chapter 06b does this for one fact. Do it for
# several, and solve no system with more unknowns than there are facts.


# %%
def downdated(
    solve: Callable[[Float[torch.Tensor, "d_mlp columns"]], Float[torch.Tensor, "d_mlp columns"]],
    dW: Float[torch.Tensor, "d_model d_mlp"],
    keys: Float[torch.Tensor, "gone d_mlp"],
    shares: Float[torch.Tensor, "gone d_model"],
) -> Float[torch.Tensor, "d_model d_mlp"]:
    """dW without the facts that leave. solve(b) is A^-1 b, by the factor of everybody's A; call it with few columns."""
    ### BEGIN SOLUTION
    G = solve(keys.T)
    inner = torch.eye(len(keys), dtype=keys.dtype) - keys @ G
    missing = shares - keys @ dW.T
    return dW - missing.T @ torch.linalg.solve(inner, G.T)
    ### END SOLUTION


# %%
check_downdated(downdated)

# %% [hint]
# Start from $\Delta' = (T - R^\top K) A'^{-1}$ and insert the identity. Four terms appear. One of them, $T A^{-1}$, is
# $\Delta$. With $K G = I - (I - K G)$ the other three become one: the residuals of the leaving facts, divided by one
# minus their leverage, $I - K G$.

# %% [exercise] difficulty=3 importance=4 minutes=20
# ## The bytes
#
# A registry keeps vectors in SQLite, in write-ahead mode, and other connections have it open. A client withdraws.
# `DELETE` marks the bytes of its rows as free, but leaves them in the file. Beside the database there is also a log of
# everything that was written lately. Delete the rows so that a search of all files finds nothing. (SQLite cannot reach
# blocks that the file system has freed, nor backups.)


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
# You need two pragmas of SQLite. One overwrites with zeros what is deleted *from then on*. The other writes the log
# into the database and truncates it; it cannot run inside a transaction. Python's `sqlite3` commits when the `with`
# block over a connection ends.
