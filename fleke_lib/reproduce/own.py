"""What this repository claims: identities, and measurements that could have come out otherwise."""

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fleke_lib.federation import baselines, weights
from fleke_lib.federation.client import Habits
from fleke_lib.federation.registry import Registry
from fleke_lib.federation.retrieval import Everyone, represent
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.separation import separation
from fleke_lib.reproduce.claims import Bound, Claim
from fleke_lib.reproduce.world import World, gap
from fleke_lib.unlearn.approximate import influence, missed, subtract
from fleke_lib.unlearn.edits import downdate
from fleke_lib.unlearn.traces import traces

OWN = "this repository"


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


OURS: tuple[Claim, ...] = (
    Claim(
        "no-text",
        "nothing but vectors and keyed tags crosses",
        OWN,
        "subjects, targets, questions and their token ids found in all bytes of a whole run",
        Bound(0, "at most"),
        texts_on_the_wire,
    ),
    Claim(
        "vectors-suffice",
        "vectors alone give 0.99 of the score of MEMIT with text",
        OWN,
        "score of the closed form over everybody's packets, over central MEMIT's",
        Bound(0.99),
        lambda world: world.score("fedit").score / world.score("central").score,
    ),
    Claim(
        "vectors-top1",
        "and 0.97 of its top-1",
        OWN,
        "the same for the share of facts whose new answer is the model's first",
        Bound(0.97),
        lambda world: world.score("fedit").top1 / world.score("central").top1,
    ),
    Claim(
        "vectors-say",
        "and 0.97 of its free decoding",
        OWN,
        "the same for the share of facts whose new answer the model writes on its own",
        Bound(0.97),
        lambda world: world.says("fedit") / world.says("central"),
    ),
    Claim(
        "packing",
        "a packet of 25 kB loses under 1% of the score",
        OWN,
        "score from packets over that from whole trajectories",
        Bound(0.99),
        lambda world: world.score("fedit").score / world.score("whole").score,
    ),
    Claim(
        "any-order",
        "the order of arrival changes no bit",
        OWN,
        "greatest relative distance",
        Bound(0, "at most"),
        other_order,
    ),
    Claim(
        "sums-add",
        "the clients' sums add up to the central closed form",
        OWN,
        "greatest relative distance over layers",
        Bound(1e-9, "at most"),
        sums_of_clients,
    ),
    Claim(
        "no-drift",
        "re-editing from the base weights keeps the first slot's facts",
        OWN,
        "their score after the last slot over that after the first",
        Bound(0.95),
        cumulative_keeps,
    ),
    Claim(
        "drift",
        "adding closed-form updates slot after slot does not",
        OWN,
        "the same for the sequential form, vectors only",
        Bound(0.95, "at most"),
        sequential_loses,
    ),
    Claim(
        "reuse",
        "where clients share 40% of their wishes, as much is never optimised",
        OWN,
        "reused over wanted",
        Bound(0.38),
        reuse,
    ),
    Claim(
        "reuse-equal",
        "and the edit is the same as without reuse",
        OWN,
        "greatest relative distance over layers",
        Bound(1e-9, "at most"),
        reuse_changes,
        seeds=1,
    ),
    Claim(
        "published-precision",
        "on raw MKVs the published rule adopts nearly everything",
        OWN,
        "precision of what it adopts against what is relevant",
        Bound(0.3, "at most"),
        lambda world: world.retrieval("published").precision,
    ),
    Claim(
        "centring",
        "centred MKVs tell relations apart better than raw ones",
        OWN,
        "area under the curve over pairs of one relation and of two, the gain",
        Bound(0.05),
        auc_gained,
    ),
    Claim(
        "policy-f1",
        "choosing the two nearest by centred MKVs finds more of what is relevant than the published rule",
        OWN,
        "f1, the difference",
        Bound(0.0),
        lambda world: world.retrieval("choosy").f1 - world.retrieval("published").f1,
    ),
    Claim(
        "choosing",
        "a client that adopts only what is near to its own loses little",
        OWN,
        "each client's own model, asked for its own and its relevant facts, over central MEMIT on these",
        Bound(0.9),
        lambda world: world.by_client("choosy").score / world.wanted_of_central.score,
    ),
    Claim(
        "sharing",
        "and is much better off than alone",
        OWN,
        "score on the same questions, less that of a model with the client's own edits alone",
        Bound(0.05),
        lambda world: world.by_client("choosy").score - world.alone.score,
    ),
    Claim(
        "withdrawal",
        "after a withdrawal everybody's weights are those of a federation never joined, bit for bit",
        OWN,
        "greatest relative distance over clients and layers from an independent run",
        Bound(0, "at most"),
        withdrawn_exactly,
    ),
    Claim(
        "downdate",
        "a downdate reaches the same without solving again",
        OWN,
        "greatest relative distance over layers",
        Bound(1e-9, "at most"),
        downdated,
    ),
    Claim(
        "subtracting",
        "subtracting the client's own update does not",
        OWN,
        "distance from the control, as a share of the client's whole effect",
        Bound(0.3),
        subtracted,
    ),
    Claim(
        "influence",
        "nor does an influence function",
        OWN,
        "the same",
        Bound(0.3),
        influenced,
    ),
    Claim(
        "erased",
        "what is deleted leaves no byte in the registry's file",
        OWN,
        "traces of the withdrawn packets found",
        Bound(0, "at most"),
        bytes_left,
    ),
    Claim(
        "not-erased",
        "what a database deletes as usual does",
        OWN,
        "traces found where secure deletion and vacuum are off",
        Bound(1),
        lambda world: bytes_left(world, careless=True),
        seeds=1,
    ),
    Claim(
        "private",
        "what an outsider learns from packets",
        OWN,
        "the chapter on privacy is to come; until then take packets for readable",
    ),
)
