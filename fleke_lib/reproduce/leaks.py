"""The experiments of the claims on privacy: what attacks read from a scenario, and what protection hides from them.

Candidates are the subjects and templates of the whole atlas. The attacks get no MKV of the facts under attack.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fleke_lib.edit import trajectory
from fleke_lib.evaluation.metrics import evaluate
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation import weights
from fleke_lib.federation.packets.messages import Tap
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.rounds import Run, run_fedit
from fleke_lib.federation.sealing.sealing import Sealing
from fleke_lib.federation.sealing.store import SealedStore, keys_of
from fleke_lib.federation.summed import Scales, flat, masked_total
from fleke_lib.privacy import rotation
from fleke_lib.privacy.attacks.public import views
from fleke_lib.privacy.attacks.rates import ranks, rate
from fleke_lib.privacy.attacks.stolen import opened
from fleke_lib.privacy.attacks.subject import Dictionary, dictionary, seen, subject_scores
from fleke_lib.privacy.attacks.target import target_token, with_template
from fleke_lib.privacy.attacks.updates import Candidates
from fleke_lib.privacy.attacks.withdrawn import from_updates
from fleke_lib.privacy.exposure import sums_exposed
from fleke_lib.privacy.noise import noisy
from fleke_lib.privacy.traces import exposed
from fleke_lib.reproduce.scenarios.scenario import SECRET, Scenario, gap
from fleke_lib.ridge.sums import sums
from fleke_lib.unlearn.edits.withdrawal import withdraw

NOISE = 2.0  # times each vector's length
ONES = 8  # facts that are withdrawn, each alone
STATE, SEED = 200.0, 1  # greatest norm of a residual for the fixed point; of the attacker's own rotation


def subjects_named(scenario: Scenario) -> float:
    """The share of packets whose subject is named among the atlas', without the prompt."""
    return named(packets(scenario), scenario, known(scenario))


def targets_named(scenario: Scenario) -> float:
    """The share of packets whose target's first token is named among the whole vocabulary, the template known."""
    lm, z = scenario.lm, torch.stack([packet.z for packet in packets(scenario)])
    tokens = torch.tensor([target_token(lm, fact) for fact in asked(scenario)])
    scores = with_template(lm, z, lm.preset.layers[-1], [fact.prompt for fact in asked(scenario)])
    return rate(ranks(scores, tokens), scores.shape[1]).share


def total_read(scenario: Scenario) -> float:
    """The least recall of subjects from dW, from T and from S of all clients."""
    first = scenario.lm.preset.layers[0]
    total = sums(packets(scenario), first)
    change = scenario.fedit.delta(first)
    found = sums_exposed(change, total, asked(scenario), known(scenario), scenario.moments[first])
    return min(one.share for one in found.values())


def leavers_named(scenario: Scenario) -> float:
    """The share of single withdrawn facts whose subject is named from the change of dW."""
    first, everyone, names = scenario.lm.preset.layers[0], packets(scenario), known(scenario)
    keys = Candidates.of(names.keys, scenario.moments[first])
    total = sums(everyone, first)
    before = total.solve(scenario.moments[first], scenario.lam)
    hits = 0
    for packet, fact in list(zip(everyone, asked(scenario), strict=True))[:ONES]:
        after = (total - sums([packet], first)).solve(scenario.moments[first], scenario.lam)
        hits += names.subjects[int(from_updates(before, after, keys).argmax())] == fact.subject
    return hits / min(ONES, len(everyone))


def prompts_named_through_a_rotation(scenario: Scenario) -> float:
    """The share of rotated packets whose exact prompt is named from the lengths of h and the keys; no pair is known."""
    lm, atlas, layers = scenario.lm, load_facts("atlas"), scenario.lm.preset.layers
    found = views(lm, [fact.prompt.partition("{}")[0] for fact in atlas], [fact.subject for fact in atlas], layers)
    here = torch.tensor([atlas.index(fact) for fact in asked(scenario)])
    h = torch.stack([packet.h for packet in packets(scenario)])
    theirs, mine = rotation.Rotation.keyed(SECRET, lm.d_model), rotation.Rotation.drawn(SEED, lm.d_model)
    sent, tried = (rotation.features(rotation.stored(turn(v), "h")) for turn, v in ((theirs, h), (mine, found.h)))
    plain = rotation.features(found.h)
    scores = rotation.matched(sent, plain, rotation.rounding(tried, plain))
    return rate(ranks(scores, here), len(atlas)).share


def named_in_spite_of_noise(scenario: Scenario) -> float:
    """The share of subjects named from noisy packets, minus the top-1 of the edit from them."""
    pairs = zip(scenario.provider(asked(scenario)), packets(scenario), strict=True)
    hidden = []
    for i, (source, packet) in enumerate(pairs):
        path, mkv = noisy(source.trajectory, source.mkv, NOISE, i)
        tags = {"question": packet.question, "answer": packet.answer}
        hidden.append(pack(path, mkv, packet.client, packet.slot, tags))
    with trajectory(hidden, scenario.moments).applied(scenario.lm):
        use = evaluate(scenario.lm, scenario.facts, prepared=scenario.prepared).top1
    return named(hidden, scenario, known(scenario)) - use


def sealed_differs(scenario: Scenario) -> float:
    """The greatest distance over clients between the weights of the sealed and of the plain run."""
    run = scenario.everyone.again(protection=Sealing())
    return farthest(run, scenario.everyone, scenario)


def vectors_seen(scenario: Scenario) -> float:
    """Number of texts, and of packets with a piece of a vector, in all that a sealed run's server stores and sees."""
    with TemporaryDirectory() as folder:
        messages: list[bytes] = []
        sealed(scenario, Path(folder) / "store.db", Sealing(), lambda kind, *both: messages.extend(both))
        found = exposed(packets(scenario), asked(scenario), [folder], messages)
    return len(found.vectors) + len(found.texts)


def opened_after_withdrawal(scenario: Scenario) -> float:
    """Number of the last client's packets that open from a backup, with the group's key, after its withdrawal."""
    seals, last = Sealing(), scenario.names[-1]
    with TemporaryDirectory() as folder:
        store, backup = Path(folder) / "store.db", Path(folder) / "backup.db"
        sealed(scenario, store, seals)
        with SealedStore(store) as sealed_store:
            sealed_store.backup(backup)
            sealed_store.withdraw(client=last)
        found = opened(backup, keys_of(store), seals.keyring(), seals.group(scenario.names))
    if {packet.client for packet in found} < {*scenario.names} - {last}:
        return math.nan  # others' packets must open: without them the check would be empty
    return sum(packet.client == last for packet in found)


def sealed_withdrawal(scenario: Scenario) -> float:
    """The greatest distance, after a withdrawal from a sealed run, from the federation that was never joined."""
    after = withdraw(scenario.everyone.again(protection=Sealing()), client=scenario.names[-1])
    return farthest(after, scenario.never, scenario)


def masked_differs(scenario: Scenario) -> float:
    """Number of integers in which masked totals differ from plain ones, with 0, 1 and as many as possible of 3 gone."""
    first, names = scenario.lm.preset.layers[0], scenario.names
    points = Scales.of({first: scenario.moments[first]}, len(names), len(scenario.facts), STATE).layers[first]
    vectors = {name: points.encode(flat(sums(scenario.everyone.own(name), first))) for name in names}
    differ = 0
    for gone in sorted({0, 1, min(3, len(names) - 3)} - {-1}):
        total, _ = masked_total(f"claim {gone}", vectors, names[:gone])
        differ += int((total != sum(vector for name, vector in vectors.items() if name not in names[:gone])).sum())
    return differ


def sealed(scenario: Scenario, path: Path, seals: Sealing, tap: Tap | None = None) -> Run:
    """The run in which everybody adopts everything, sealed, with a store at `path`."""
    more = {"provider": scenario.provider, "secret": SECRET}
    return run_fedit(scenario.lm, scenario.parts, Everyone(), path=path, protection=seals, tap=tap, **more)


def farthest(one: Run, other: Run, scenario: Scenario) -> float:
    """The greatest distance over clients between the weights of two runs."""
    return max(gap(*(weights.cumulative(run, name, scenario.moments) for run in (one, other))) for name in one.clients)


def packets(scenario: Scenario) -> list[Packet]:
    """All packets of the run in which everybody adopts everything."""
    return [*scenario.everyone.packets.values()]


def asked(scenario: Scenario) -> list[Fact]:
    """The fact of each packet."""
    return [scenario.everyone.fact(packet.id) for packet in packets(scenario)]


def known(scenario: Scenario) -> Dictionary:
    """The attacker's candidates: the atlas' subjects."""
    return scenario.remember(
        "candidates",
        lambda: dictionary(
            scenario.lm, sorted({fact.subject for fact in load_facts("atlas")}), scenario.lm.preset.layers
        ),
    )


def named(some: Sequence[Packet], scenario: Scenario, names: Dictionary) -> float:
    """The share of packets whose subject has the highest score."""
    truth = torch.tensor([names.subjects.index(fact.subject) for fact in asked(scenario)])
    return rate(ranks(subject_scores(seen(some), names), truth), len(names.subjects)).share
