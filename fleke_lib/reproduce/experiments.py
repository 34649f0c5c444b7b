"""The experiments of this repository's own claims: each maps a scenario to a number."""

import math
import sqlite3
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fleke_lib.edit import trajectory
from fleke_lib.edit.downdate import factorise
from fleke_lib.federation import baselines, weights
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.provider import VectorProvider
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.retrieval.representations import represent
from fleke_lib.federation.retrieval.separation import separation
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.reproduce.scenarios.sampling import draw
from fleke_lib.reproduce.scenarios.scenario import SECRET, Scenario, gap, never_joined
from fleke_lib.unlearn.edits.approximate import influence, missed, subtract
from fleke_lib.unlearn.edits.traces import traces
from fleke_lib.unlearn.edits.withdrawal import withdraw

LETTERS = 6  # bytes of a piece of text besides zeros: keys in 4 bits have runs of zeros, too
ENTANGLED = 24  # facts of the federation whose clients depend on each other


def texts_on_the_wire(scenario: Scenario) -> float:
    """Number of subjects, targets, questions and their token ids that occur in the bytes of a whole run."""
    messages: list[bytes] = []
    run_fedit(
        scenario.lm,
        scenario.parts,
        Everyone(),
        provider=scenario.provider,
        tap=lambda kind, *both: messages.extend(both),
        secret=SECRET,
    )
    blob, found = b"".join(messages), 0
    for fact in scenario.facts:
        for text in (fact.subject, fact.target_new, fact.question):
            ids = scenario.lm.tokenizer(text, add_special_tokens=False).input_ids
            written = [torch.tensor(ids, dtype=kind).numpy().tobytes() for kind in (torch.int32, torch.int64)]
            pieces = [piece for piece in (text.encode(), *written) if len(piece.replace(b"\0", b"")) >= LETTERS]
            found += any(piece in blob for piece in pieces)
    return found


def other_order(scenario: Scenario) -> float:
    """The relative distance between the edits when clients act in reverse and in normal order."""
    reverse = run_fedit(scenario.lm, scenario.parts[::-1], Everyone(), provider=scenario.provider, secret=SECRET)
    return gap(weights.cumulative(reverse, scenario.first, scenario.moments), scenario.fedit)


def sums_of_clients(scenario: Scenario) -> float:
    """The relative distance of the edit from the clients' summed S and T to the edit from all trajectories."""
    paths = [[prepared.trajectory for prepared in scenario.provider(part.facts)] for part in scenario.parts]
    return gap(baselines.summed_statistics(paths, scenario.moments, scenario.lam), scenario.whole)


def cumulative_keeps(scenario: Scenario) -> float:
    """The share of the first slot's score that is kept when every slot is solved from the base weights."""
    watched = (0, scenario.slots - 1)
    return scenario.kept(
        [weights.cumulative(scenario.everyone, scenario.first, scenario.moments, slot) for slot in watched]
    )


def sequential_loses(scenario: Scenario) -> float:
    """The share of the first slot's score that is kept when each slot's update is added to the previous weights."""
    ends = (0, scenario.slots - 1)
    edits = weights.sequential(scenario.everyone, scenario.first, scenario.moments, slots=ends)
    return scenario.kept([edits[slot] for slot in ends])


def reuse_missed(scenario: Scenario) -> float:
    """Duplicates that were optimised all the same, or others that were not, at an overlap of 40%.

    Duplicates are counted from the clients' text, reused edits from the ledger. (The reused share of all edits is the
    partition's own parameter and says nothing.)
    """
    run = scenario.run(Everyone(), overlap=0.4)
    wanted = [(fact.question, fact.target_new) for part in run.parts for fact in part.facts]
    return abs(len(wanted) - len(set(wanted)) - len(run.ledger.select("reused")))


def reuse_changes(scenario: Scenario) -> float:
    """The relative distance between the edits with and without reuse, at an overlap of 40%."""
    one, other = (scenario.run(ClientConfig(Everyone(), reuse=wanted), overlap=0.4) for wanted in (True, False))
    return gap(*(weights.cumulative(run, scenario.first, scenario.moments) for run in (one, other)))


def withdrawn_exactly(scenario: Scenario) -> float:
    """The greatest distance, over the remaining clients, from the federation that the last client never joined."""
    return max(
        gap(*(weights.cumulative(run, name, scenario.moments) for run in (scenario.after, scenario.never)))
        for name in scenario.after.clients
    )


def withdrawn_exactly_entangled(scenario: Scenario) -> float:
    """The same where clients want the same edits, disagree, and start optimisations at each other's MKVs.

    On a part of the facts, because warm starts must be optimised anew. Of the clients at whose packets optimisations
    started (of all, if with so few facts none did), the one leaves whose packets were reused most; nan if nothing was
    reused either, since the check would then be empty.
    """
    lm, some = scenario.lm, draw(scenario.lm, scenario.facts, min(ENTANGLED, len(scenario.facts)), scenario.seed)
    shape = {"clients": min(4, scenario.clients), "slots": min(3, scenario.slots)}
    parts = partition(some, **shape, overlap=0.2, conflicts=0.2, seed=scenario.seed)
    config = ClientConfig(Everyone(), warm=True)
    run = run_fedit(lm, parts, config, provider=VectorProvider(lm), secret=SECRET)
    reused = Counter(run.packets[event.packet].client for event in run.ledger.select("reused"))
    sources = {run.packets[source].client for event in run.ledger.select("optimised") for source in event.of}
    gone = max(sorted(reused.keys() | sources), key=lambda name: (name in sources, reused[name]), default="")
    if not gone:
        return math.nan
    after = withdraw(run, client=gone)
    never = run_fedit(lm, never_joined(parts, gone), config, provider=VectorProvider(lm), secret=SECRET)
    return max(
        gap(*(weights.cumulative(one, name, scenario.moments) for one in (after, never))) for name in after.clients
    )


def downdated(scenario: Scenario) -> float:
    """The relative distance of a downdate of whole trajectories, with coupling 0, from solving without the last one."""
    *stay, gone = [[made.trajectory for made in scenario.provider(part.facts)] for part in scenario.parts]
    stay = [path for paths in stay for path in paths]
    after = factorise([*stay, *gone], scenario.moments, scenario.lam).changed(gone=gone)
    return gap(after, trajectory(stay, scenario.moments, scenario.lam, coupling=0))


def subtracted(scenario: Scenario) -> float:
    """The distance of subtracting the last client's own update from its exact withdrawal, see `missed`."""
    control = weights.cumulative(scenario.after, scenario.first, scenario.moments)
    return missed(subtract(scenario.fedit, scenario.local[-1]), control, scenario.fedit)


def influenced(scenario: Scenario) -> float:
    """The distance of an influence-function step from the exact withdrawal, see `missed`; both with coupling 0."""
    before, control = (
        weights.cumulative(run, scenario.first, scenario.moments, coupling=0)
        for run in (scenario.everyone, scenario.after)
    )
    return missed(influence(scenario.system, scenario.gone), control, before)


def bytes_left(scenario: Scenario, careless: bool = False) -> float:
    """Number of traces of the last client's packets in a registry's file after its withdrawal.

    Args:
        careless: delete with plain SQLite, without secure deletion and vacuum, instead of withdrawing.
    """
    stay = [packet for packet in scenario.everyone.packets.values() if packet.client != scenario.names[-1]]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "registry.db"
        run_fedit(scenario.lm, scenario.parts, Everyone(), provider=scenario.provider, path=file, secret=SECRET)
        if careless:
            with sqlite3.connect(file) as database:
                database.execute("PRAGMA secure_delete = OFF")
                database.execute("PRAGMA auto_vacuum = NONE")
                database.execute("DELETE FROM packets WHERE client = ?", (scenario.names[-1],))
            database.close()
        else:
            with Registry(file) as registry:
                registry.withdraw(client=scenario.names[-1])
        return len(traces(folder, scenario.gone, stay))


def auc_gained(scenario: Scenario) -> float:
    """The gain in AUC, over pairs of the same and of different relations, of centred over raw MKVs."""
    z, h = (torch.stack([getattr(mkv, name) for mkv in scenario.mkvs]) for name in ("z", "h"))
    labels = [fact.relation for fact in scenario.facts]
    raw, centred = (separation(represent(kind, z, h), labels).auc for kind in ("raw", "centred"))
    return centred - raw
