"""How a user calls the library, for the type checker alone: `make types` reads this file, nothing runs it.

A name that a room shows, an argument or a result that changes its type makes `make check` fail here. What the bodies of
the library do is for the tests.
"""

from pathlib import Path
from typing import assert_type

import torch

import fleke_lib as fleke
from fleke_lib.edit.downdate import FactoredEdit, factorise
from fleke_lib.evaluation import (
    Evaluation,
    Harm,
    TextMemory,
    difference,
    evaluate_with_text,
    free_decoding,
    prepare_evaluation,
    prepare_harm,
)
from fleke_lib.federation import (
    PUBLISHED,
    ClientConfig,
    Cluster,
    Everyone,
    Majority,
    Packet,
    Part,
    Policy,
    Registry,
    Rules,
    Run,
    TopK,
    VectorProvider,
    baselines,
    lora,
    partition,
    published_fedit,
    run_fedit,
    weights,
)
from fleke_lib.locate import CausalTrace, TraceAverage, average_traces
from fleke_lib.mkv import EditMap, shipped_map, stored_mkvs
from fleke_lib.model import Hparams
from fleke_lib.unlearn.edits import downdate, withdraw


def one_session() -> None:
    lm = assert_type(fleke.load_model(), fleke.LanguageModel)
    facts = assert_type(fleke.load_facts("atlas", limit=10, seed=0), fleke.Facts)
    assert_type(facts[0], fleke.Fact)
    assert_type(fleke.known_facts(lm, facts, "preferred"), tuple[fleke.Fact, ...])
    trace = assert_type(fleke.causal_trace(lm, facts[0], kind="hidden"), CausalTrace)
    assert_type(average_traces([trace]), TraceAverage)
    moments = fleke.second_moments(lm, layers=lm.preset.layers)
    assert_type(moments[4], torch.Tensor)
    mkvs = assert_type(fleke.compute_mkvs(lm, facts), list[fleke.Mkv])
    paths = assert_type(fleke.trajectories(lm, facts, mkvs), list[fleke.Trajectory])
    hparams = Hparams((4, 6), lam=100.0)
    for method in (fleke.edit.memit, fleke.edit.pmet, fleke.edit.rome, fleke.edit.emmet):
        assert_type(method(lm, facts, mkvs, moments, hparams=hparams), fleke.Edit)
    assert_type(fleke.edit.blue(lm, facts, moments, hparams=hparams), fleke.Edit)
    assert_type(fleke.edit.locft_bf(lm, facts, seed=1), fleke.Edit)
    table = assert_type(fleke.edit.memory(paths), fleke.edit.Memory)
    with table.applied(lm):
        assert_type(fleke.evaluate(lm, facts), Evaluation)
    assert_type(table.without(paths[0]), fleke.edit.Memory)
    assert_type(fleke.edit.Memory.load(table.save("table.safetensors")), fleke.edit.Memory)
    edit = assert_type(fleke.edit.trajectory(paths, moments), fleke.Edit)
    with edit.applied(lm):
        scores = assert_type(fleke.evaluate(lm, facts, prepared=prepare_evaluation(lm, facts)), Evaluation)
    assert_type(evaluate_with_text(lm, facts, TextMemory(facts[:4], threshold=0.5)), Evaluation)
    assert_type(scores.score, float)
    assert_type(fleke.evaluate(lm, facts, harm=prepare_harm(lm)).harm, Harm | None)
    assert_type(difference(scores, scores, "top1"), tuple[float, float, float])
    assert_type(free_decoding(lm, facts).says, float)
    edit.save("ten.safetensors")
    assert_type(fleke.Edit.load(Path("ten.safetensors")), fleke.Edit)


def a_federation(lm: fleke.LanguageModel, facts: fleke.Facts) -> None:
    moments = fleke.second_moments(lm)
    parts = assert_type(partition(facts, clients=8, by="relation", slots=10, overlap=0.2), tuple[Part, ...])
    policies: list[Policy] = [TopK(2), Majority(0.4), Cluster(4), Everyone()]
    config = ClientConfig(policies[0], representation="centred", map=assert_type(shipped_map(lm), EditMap))
    provider = VectorProvider(lm, lambda wanted: stored_mkvs(lm, wanted), batch=4)
    run = assert_type(run_fedit(lm, parts, config, provider=provider, secret=b"theirs"), Run)
    assert_type(weights.cumulative(run, "client 0", moments), fleke.Edit)
    held = assert_type(weights.held(run, "client 0"), tuple[Packet, ...])
    assert_type(fleke.edit.trajectory(held, moments), fleke.Edit)
    assert_type(fleke.edit.memory(held), fleke.edit.Memory)
    own = [[prepared.trajectory for prepared in provider(part.facts)] for part in parts]
    local = assert_type(baselines.local_only(own, moments), list[fleke.Edit])
    step = assert_type(baselines.tuned(lm, lambda step: baselines.fedavg(local, step=step), facts), float)
    assert_type(baselines.fedavg(local, [1, 2], step), fleke.Edit)
    assert_type(lora.average_factors([lora.adapter(edit, rank=8) for edit in local], step=step), fleke.Edit)
    as_published = run_fedit(lm, parts, PUBLISHED, provider=provider, secret=b"the clients' own")
    assert_type(published_fedit(as_published, lm, "client 0", moments), fleke.Edit)
    after = assert_type(withdraw(run, client="client 3"), Run)
    factored = assert_type(factorise(held, moments), FactoredEdit)
    assert_type(downdate(factored, run, after, "client 0"), fleke.Edit)
    with Registry("registry.db", Rules.of(lm)) as registry:
        assert_type(registry.put(held[0].data), str)
        assert_type(registry.get([held[0].id]), list[bytes])
