"""The experiments behind our own claims: from a world to a number."""

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fleke_lib.federation import baselines, weights
from fleke_lib.federation.client import Habits
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.retrieval.representations import represent
from fleke_lib.federation.retrieval.separation import separation
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.reproduce.world import World, gap
from fleke_lib.unlearn.edits.approximate import influence, missed, subtract
from fleke_lib.unlearn.edits.traces import traces
from fleke_lib.unlearn.edits.withdrawal import downdate


def texts_on_the_wire(world: World) -> float:
    """Subjects, targets, questions and their token ids that are somewhere in the bytes of a whole run."""
    messages: list[bytes] = []
    run_fedit(world.lm, world.parts, Everyone(), make=world.make, tap=lambda kind, *both: messages.extend(both))
    blob, found = b"".join(messages), 0
    for fact in world.facts:
        for text in (fact.subject, fact.target_new, fact.question):
            ids = world.lm.tokenizer(text, add_special_tokens=False).input_ids
            written = [torch.tensor(ids, dtype=kind).numpy().tobytes() for kind in (torch.int32, torch.int64)]
            found += any(len(piece) > 5 and piece in blob for piece in (text.encode(), *written))
    return found


def other_order(world: World) -> float:
    """The edit when clients act in the reverse order, against the edit."""
    reverse = run_fedit(world.lm, world.parts[::-1], Everyone(), make=world.make)
    return gap(weights.cumulative(reverse, world.first, world.moments), world.fedit)


def sums_of_clients(world: World) -> float:
    """The edit from every client's S and T added up, against the one from all trajectories."""
    paths = [[made.path for made in world.make(part.facts)] for part in world.parts]
    return gap(baselines.summed_statistics(paths, world.moments), world.whole)


def cumulative_keeps(world: World) -> float:
    """What the first slot's facts keep when every slot is solved anew from the base weights."""
    watched = (0, world.slots - 1)
    return world.kept([weights.cumulative(world.everyone, world.first, world.moments, slot) for slot in watched])


def sequential_loses(world: World) -> float:
    """What they keep when each slot's update is added to the one before."""
    return world.kept(weights.sequential(world.everyone, world.first, world.moments))


def reuse(world: World) -> float:
    """Where clients share 40% of their wishes, the share of wishes that is never optimised."""
    ledger = world.run(Everyone(), overlap=0.4).ledger
    reused, made = (len(ledger.select(kind)) for kind in ("reused", "optimised"))
    return reused / (reused + made)


def reuse_changes(world: World) -> float:
    """The edit with reuse, against the edit without, where 40% of the wishes are shared."""
    one, other = (world.run(Habits(Everyone(), reuse=wanted), overlap=0.4) for wanted in (True, False))
    return gap(*(weights.cumulative(run, world.first, world.moments) for run in (one, other)))


def withdrawn_exactly(world: World) -> float:
    """The greatest distance, over the clients that stay, from the federation that the last one never joined."""
    return max(
        gap(*(weights.cumulative(run, name, world.moments) for run in (world.after, world.never)))
        for name in world.after.clients
    )


def downdated(world: World) -> float:
    """The first client's downdate, against its replayed edit."""
    after = downdate(world.system, world.everyone, world.after, world.first)
    return gap(after, weights.cumulative(world.after, world.first, world.moments))


def subtracted(world: World) -> float:
    """How far subtracting the last client's own update is from its withdrawal."""
    control = weights.cumulative(world.after, world.first, world.moments)
    return missed(subtract(world.fedit, world.local[-1]), control, world.fedit)


def influenced(world: World) -> float:
    """How far an influence function's step is from it."""
    control = weights.cumulative(world.after, world.first, world.moments)
    return missed(influence(world.system, world.gone), control, world.fedit)


def bytes_left(world: World, careless: bool = False) -> float:
    """Traces of the last client's packets in a registry's file, after it has withdrawn."""
    stay = [packet for packet in world.everyone.packets.values() if packet.client != world.names[-1]]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "registry.db"
        run_fedit(world.lm, world.parts, Everyone(), make=world.make, path=file)
        if careless:
            with sqlite3.connect(file) as database:
                database.execute("PRAGMA secure_delete = OFF")
                database.execute("PRAGMA auto_vacuum = NONE")
                database.execute("DELETE FROM packets WHERE client = ?", (world.names[-1],))
            database.close()
        else:
            with Registry(file) as registry:
                registry.withdraw(client=world.names[-1])
        return len(traces(folder, world.gone, stay))


def auc_gained(world: World) -> float:
    """How much better centred MKVs tell pairs of one relation from pairs of two than raw ones."""
    z, h = (torch.stack([getattr(mkv, name) for mkv in world.mkvs]) for name in ("z", "h"))
    labels = [fact.relation for fact in world.facts]
    raw, centred = (separation(represent(kind, z, h), labels).auc for kind in ("raw", "centred"))
    return centred - raw
