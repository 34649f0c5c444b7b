"""Exact withdrawal from a federation of edits.

The four steps of unlearning are simple here, because packets stay separate:

    identification     find the packets that a client or a fact has published
    local adjustment   clients that reused a withdrawn packet, or started an optimisation there, compute their own
    aggregation        policies choose again among the remaining packets, and conflicts are resolved again
    global update      every client solves again from the base weights

`withdraw` replays the federation without the withdrawn facts. The result is the run in which they never took part:
derived state (adoptions, centring, clusters, warm starts, conflicts) is recomputed, never patched. The MKVs and
trajectories of the remaining facts depend only on the base model and are reused, so a replay takes seconds. `downdate`
computes the same weights from the current solution, without a new factorisation.

A replay deletes no file. The MKVs of withdrawn facts also lie in caches, and a cache belongs to the client whose
machine it is on: who withdraws calls `forget` there, and puts what it deleted into the certificate.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from fleke_lib.edit import Edit
from fleke_lib.edit.downdate import FactoredEdit
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.ledger import Event
from fleke_lib.federation.packets.conflicts import ConflictRule, own_wins
from fleke_lib.federation.partitioning import Part
from fleke_lib.federation.provider import Provider, VectorProvider
from fleke_lib.federation.rounds import Run
from fleke_lib.federation.weights import held
from fleke_lib.mkv.forgetting import Forgotten
from fleke_lib.unlearn.edits.certificate import Check


def withdraw(
    run: Run, *, client: str | None = None, packets: Sequence[str] | None = None, provider: Provider | None = None
) -> Run:
    """The run in which a client, or the facts of some packets, never took part.

    A packet is withdrawn by its publisher, also if other clients have reused it. The ledger of the result ends with one
    "withdrawn" event for each client that has withdrawn something; it names no packet.

    Args:
        client: this client leaves, and everything that it published is withdrawn.
        packets: ids of the packets to withdraw; their publishers stay.
        provider: computes what must be computed again; by default the run's own, without its results for withdrawn
            facts.

    Raises:
        ValueError: neither or both of `client` and `packets` are given, there is no such client or packet, no facts
            would be left, or a withdrawn packet has taught an edit map in use, from which no replay can remove it.
    """
    gone = _gone(run, client, packets)
    withdrawn = packets or [packet.id for packet in run.packets.values() if packet.client == client]
    _check_maps(run, withdrawn)
    parts = [without(part, gone.get(part.name, ())) for part in run.parts if part.name != client]
    if not any(part.facts for part in parts):
        raise ValueError("nobody would be left with a fact: delete the registry instead of withdrawing from it.")
    remaining = {fact for part in parts for fact in part.facts}
    parts = [replace(part, relevant=tuple(f for f in part.relevant if f in remaining)) for part in parts]
    forgotten = [fact for facts in gone.values() for fact in facts]
    protection = run.config.protection.without(withdrawn, client)
    after = run.again(parts, provider or _anew(run, forgotten, remaining), protection)
    events = [Event("withdrawn", run.slots - 1, name) for name in sorted(gone)]
    return replace(after, ledger=after.ledger.plus([*run.ledger.select("withdrawn"), *events]))


def forget(
    run: Run, *, client: str | None = None, packets: Sequence[str] | None = None, provider: VectorProvider | None = None
) -> Forgotten:
    """Delete the vectors of facts that are to be withdrawn from the caches of this machine, in memory and on disk.

    Call it before `withdraw`, with the same `client` or `packets`, on the machine of who withdraws. In a run in one
    process all clients share a cache. The replay then computes again, and keeps again, what others still hold.

    Args:
        provider: whose vectors are deleted; the run's own by default.

    Raises:
        ValueError: as `withdraw`, or the provider keeps nothing that it could delete.
    """
    facts = [fact for some in _gone(run, client, packets).values() for fact in some]
    provider = provider or run.config.provider
    if not hasattr(provider, "forget"):
        raise ValueError(f"this provider ({provider!r}) has no `forget`: delete what it keeps of {len(facts)} facts.")
    return provider.forget(list(dict.fromkeys(facts)))


def forgotten_check(forgotten: Forgotten) -> Check:
    """What `forget` deleted, as a check for a certificate: it holds if no file keeps a row of the facts.

    The figures name each file with its number of rows. Files that ship with the repository cannot be deleted; the check
    does not hold if a row is in one of them.
    """
    deleted = {f"rows deleted from {path.name}": n for path, n in forgotten.rows.items()}
    stays = {f"rows that ship in {path.name}": n for path, n in forgotten.stays.items()}
    return Check("no rows of the withdrawn facts in MKV caches", not stays, {**deleted, **stays})


def downdate(
    factored: FactoredEdit,
    before: Run,
    after: Run,
    client: str,
    rule: ConflictRule = own_wins,
    until: int | None = None,
) -> Edit:
    """The edit of a client after a withdrawal, computed from its current solution.

    A withdrawal can change more than the withdrawn packets: a policy may now choose other packets, and a conflict may
    have another winner. The update is therefore the difference between the packets held before and after. A reused
    packet whose publisher leaves has the content of its user's own copy, and changes nothing.

    Args:
        factored: of `weights.held(before, client)`, from `edit.downdate.factorise`.
        before, after: the run, and the result of `withdraw`.
        client: one that stays.
        rule, until: as in `weights.held`.
    """
    old, new = ({packet.content: packet for packet in held(run, client, until, rule)} for run in (before, after))
    return factored.changed(
        gone=[packet for content, packet in old.items() if content not in new],
        come=[packet for content, packet in new.items() if content not in old],
    )


def without(part: Part, gone: Iterable[Fact]) -> Part:
    """A part without some of its facts; its slots keep their numbers."""
    gone = set(gone)
    return replace(part, slots=tuple(tuple(fact for fact in slot if fact not in gone) for slot in part.slots))


def leaving(run: Run, client: str) -> Mapping[str, tuple[Fact, ...]]:
    """The facts of a client that leaves, by its name. Raises ValueError if it is not, or no longer, in the run."""
    for part in run.parts:
        if part.name == client:
            return {client: part.facts}
    if run.ledger.select("withdrawn", client=client):
        raise ValueError(f"{client!r} has withdrawn from this run already: there is nothing left to withdraw.")
    raise ValueError(f"there is no {client!r} in this run: give one of {', '.join(run.clients)}.")


def _gone(run: Run, client: str | None, packets: Sequence[str] | None) -> Mapping[str, tuple[Fact, ...]]:
    """The facts that leave, by the client that published them."""
    if (client is None) == (packets is None):
        raise ValueError("a withdrawal is of a client or of packets: give one of the two.")
    return leaving(run, client) if packets is None else _owned(run, packets)


def _anew(run: Run, forgotten: Collection[Fact], remaining: Collection[Fact]) -> Provider:
    """The run's provider without its results for withdrawn facts; those that others still hold are computed at once."""
    provider = run.config.provider.without(forgotten)
    if not any(config.warm or config.map for config in run.config.clients.values()):  # otherwise the starts are unknown
        provider([fact for fact in dict.fromkeys(forgotten) if fact in remaining])
    return provider


def _check_maps(run: Run, withdrawn: Collection[str]) -> None:
    """Raise ValueError if a withdrawn packet has taught a client's map: maps are taught before the run."""
    for name, config in run.config.clients.items():
        if config.map and not set(withdrawn).isdisjoint(config.map.teachers):
            raise ValueError(
                f"the map that {name!r} begins at was taught by a withdrawn packet: subtract that packet's part "
                "from the map's sums, and run again with the map that they then give."
            )


def _owned(run: Run, packets: Sequence[str]) -> Mapping[str, tuple[Fact, ...]]:
    """The facts of packets, by the client that published them."""
    gone: dict[str, list[Fact]] = {}
    for name in dict.fromkeys(packets):
        if name not in run.packets:
            raise ValueError(f"packet {name[:12]!r} is not in this run: it never was, or it has been withdrawn.")
        publisher = run.packets[name].client
        gone.setdefault(publisher, []).append(run.texts[publisher][name])
    if not gone:
        raise ValueError("there is no packet to withdraw: give one id or more.")
    return {name: tuple(facts) for name, facts in gone.items()}
