# %% [markdown]
# # Exercises: real machines
#
# Three exercises on [chapter 09](../09_real_machines.ipynb). They need neither Flower nor a model. Put your lines
# where a function raises `NotImplementedError`, run the cell, then the check below it. Hints and solutions are
# folded.
#
# When you have done them you can
#
# - read from the server's log what each turn brought, who was late and who was absent;
# - write a node that replies to a repeated turn without doing anything twice;
# - decide from a log whether a withdrawal is complete.

# %%
from collections.abc import Callable, Mapping, Sequence

from checks.real_machines import Row, check_may_close, check_reply_to, check_told, recorded

rows = recorded()  # the log of chapter 09's recorded run
print(*rows, sep="\n")

# %% [exercise] difficulty=2 importance=4 minutes=15
# ## What the log tells
#
# A row of the log is one turn. `received` counts the bytes of all replies since the server was started. It begins
# again with 0 at every start, and the first turn of a start is a `join`. `alive` is the number of members that could
# be reached when the turn began: only they were sent the turn. `replied` of them replied before the patience was
# over.
#
# For each turn, find the bytes that came during it, how many members were *late* (they were sent the turn and did not
# reply in time), and how many were *absent* (they could not be reached when the turn began).


# %%
def told(rows: Sequence[Row]) -> list[tuple[int, int, int]]:
    """Return bytes, late members and absent members of each turn."""
    ### BEGIN SOLUTION
    found, before = [], 0
    for row in rows:
        if row.what == "join":
            before = 0
        found.append((row.received - before, row.alive - row.replied, row.members - row.alive))
        before = row.received
    return found
    ### END SOLUTION


# %%
check_told(told)

# %% [hint]
# The bytes of a turn are a difference of two totals. Which total does a `join` start from? Every member is absent,
# late or among those that replied.

# %% [exercise] difficulty=3 importance=5 minutes=20
# ## A turn that comes twice
#
# A message can be delivered twice or too late, and a node can be killed at any moment. The node keeps each turn with
# its reply in its folder. A turn is known by its session, which names one start of the server, and by its number in
# the session. The server goes on without a node that is late, so numbers can be skipped. A new session begins again
# with a low number, and ends the session before.
#
# Write the node's rule. A turn that is kept gets the kept reply. A turn of a session that has ended, or with a lower
# number than the session's last one, is refused with `ValueError`. Any other turn is played once, and its reply is
# kept before it is returned.


# %%
def reply_to(
    turn: tuple[str, int],
    kept: Mapping[tuple[str, int], bytes],
    play: Callable[[], bytes],
    keep: Callable[[bytes], None],
) -> bytes:
    """Return the node's reply to a turn, which is its session and its number.

    kept: the replies in the folder by turn, oldest first. play: does the work of this turn and returns the reply.
    keep: writes this turn with its reply into the folder.
    """
    ### BEGIN SOLUTION
    if turn in kept:
        return kept[turn]
    session, number = turn
    if session in {one for one, _ in kept}:
        present, last = list(kept)[-1]
        if session != present or number < last:
            raise ValueError("the server has gone on without this turn.")
    reply = play()
    keep(reply)
    return reply
    ### END SOLUTION


# %%
check_reply_to(reply_to)

# %% [hint]
# The present session is that of the last turn in `kept`. A session that is not in `kept` is new. Sealing draws random
# keys, so `play` gives other bytes each time.

# %% [exercise] difficulty=3 importance=5 minutes=20
# ## Is the withdrawal complete?
#
# After a withdrawal the server plays all slots again, from `edit` of slot 0 to `solve`. A request that comes in the
# middle makes it begin once more. The request is closed, and the name erased from the file, when every member that
# stays has replied to all turns of a replay that has begun after the request. Until then it stays pending. Members
# that withdraw are not waited for.
#
# The server looks at its log after a turn. Decide whether it may close all requests now. Only the last replay counts.


# %%
def may_close(
    turns: Sequence[tuple[str, int, frozenset[str]]], members: frozenset[str], requests: Mapping[str, int]
) -> bool:
    """Whether all withdrawals are complete at the end of this log.

    turns: what the turn was, its slot, and who has replied to it; `edit` of slot 0 is there at least once.
    requests: by member that withdraws, the place in `turns` of the turn to which it replied with the request.
    """
    ### BEGIN SOLUTION
    start = max(i for i, (what, slot, _) in enumerate(turns) if (what, slot) == ("edit", 0))
    stay = members - requests.keys()
    after = all(asked < start for asked in requests.values())
    return after and turns[-1][0] == "solve" and all(stay <= replied for _, _, replied in turns[start:])
    ### END SOLUTION


# %%
check_may_close(may_close)

# %% [hint]
# Find the turn with which the last replay begins. Then there are three conditions: on the requests, on the last turn,
# and on every turn of the replay.
