"""A whole federation on a tiny model: what is sent, recorded and reused, and the resulting weights."""

import json
import struct
from dataclasses import replace
from itertools import chain

import pytest
import torch

from fleke_lib.edit import memit, trajectory, write
from fleke_lib.edit.readings import read
from fleke_lib.edit.trajectories import trajectories
from fleke_lib.evaluation import evaluate
from fleke_lib.facts.contexts import contexts_for
from fleke_lib.facts.fact import Fact, Neighbour
from fleke_lib.federation import baselines
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.ledger import Event, Ledger
from fleke_lib.federation.partitioning import Part, partition
from fleke_lib.federation.published import PUBLISHED, published_fedit
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.retrieval.policies import Everyone, Majority, Nobody, Threshold
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.server import Channel, Server
from fleke_lib.federation.weights import cumulative, held, sequential, sequential_with_text, sum_edits
from tests.federation.small import LAYERS, facts, scenario

PARTS = partition(facts(), 3, slots=2, overlap=0.2, conflicts=0.1, seed=1)


@pytest.fixture(scope="module")
def crossed():
    """A run in which everybody adopts everything, and all messages."""
    messages = []
    lm, provider, _ = scenario()
    run = run_fedit(
        lm,
        PARTS,
        Everyone(),
        provider=provider,
        tap=lambda *message: messages.append(message),
        secret=b"the clients' own",
    )
    return run, messages


def leaks(messages, parts, tokenizer):
    """Texts, and token ids as 16, 32 or 64-bit numbers, that are somewhere in the bytes."""
    blob = b"".join(sent + received for _, sent, received in messages)
    words, found = set(), set()
    for fact in (fact for part in parts for fact in part.facts):
        words |= {fact.subject, fact.target_new, fact.target_true, fact.prompt, fact.question, *fact.prompt.split("{}")}
    for word in (word.strip() for word in words):
        if len(word) > 2 and word.encode() in blob:
            found.add(word)
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        for kind in "HIQ":
            if len(ids) * struct.calcsize(kind) >= 6 and struct.pack(f"<{len(ids)}{kind}", *ids) in blob:
                found.add(f"{word} as {kind}")
        if len(ids) > 2 and any(json.dumps(ids, separators=(s, ":")).strip("[]").encode() in blob for s in (",", ", ")):
            found.add(f"{word} as JSON")
    return found


def test_nothing_but_vectors_and_tags_crosses(crossed):
    _, messages = crossed
    lm, _, _ = scenario()
    assert {kind for kind, _, _ in messages} == {"put", "find", "offers", "get"}
    assert leaks(messages, PARTS, lm.tokenizer) == set()
    ids = lm.tokenizer("The capital of", add_special_tokens=False)["input_ids"]
    told = [("put", b"...France...", b""), ("put", struct.pack(f"<{len(ids)}I", *ids), b"")]
    assert {"France", "The capital of as I"} <= leaks(messages + told, PARTS, lm.tokenizer)


def test_the_ledger_counts_every_byte(crossed):
    run, messages = crossed
    assert run.ledger.total("sent") == sum(len(sent) for _, sent, _ in messages)
    assert run.ledger.total("received") == sum(len(received) for _, _, received in messages)


def test_same_seed_same_ledger(crossed, tmp_path):
    run, _ = crossed
    lm, provider, _ = scenario()
    again = run_fedit(lm, PARTS, Everyone(), provider=provider, secret=b"the clients' own")
    assert again.ledger == run.ledger and again.packets.keys() == run.packets.keys()
    assert Ledger.load(run.ledger.save(tmp_path / "ledger.jsonl")) == run.ledger
    (tmp_path / "ledger.jsonl").write_text('{"kind": "optimised"}\n')
    with pytest.raises(ValueError, match="line 1"):
        Ledger.load(tmp_path / "ledger.jsonl")
    with pytest.raises(ValueError, match="'made'"):
        Event("made", 0, "client 0")


def test_everyone_has_everything_and_nobody_his_own(crossed):
    run, _ = crossed
    lm, provider, _ = scenario()
    alone = run_fedit(lm, PARTS, Nobody(), provider=provider, secret=b"the clients' own")
    for part in PARTS:
        own = {(fact.question, fact.target_new) for fact in part.facts}
        assert {(f.question, f.target_new) for f in map(alone.fact, ids(held(alone, part.name)))} == own
        assert len(run.own(part.name)) + len(run.adopted(part.name)) == len(run.packets)
        assert run.retrieval(part.name).recall == 1
        assert alone.retrieval(part.name).adopted == 0


def ids(packets):
    return [packet.id for packet in packets]


def test_an_answer_that_exists_is_not_made_again(crossed):
    run, _ = crossed
    lm, provider, _ = scenario()
    wanted = [(fact.question, fact.target_new) for part in PARTS for fact in part.facts]
    assert len(run.ledger.select("optimised")) == len(set(wanted)) < len(wanted)
    assert len(run.ledger.select("reused")) == len(wanted) - len(set(wanted))
    each = run_fedit(lm, PARTS, ClientConfig(Nobody(), reuse=False), provider=provider, secret=b"the clients' own")
    assert len(each.ledger.select("optimised")) == len(wanted)


def test_a_conflict_is_settled_for_the_own_answer(crossed):
    run, _ = crossed
    conflicting = 0
    for part in PARTS:
        kept = [run.fact(name) for name in ids(held(run, part.name))]
        answers = {fact.question: fact.target_new for fact in kept}
        assert len(answers) == len(kept) == len({fact.question for p in PARTS for fact in p.facts})
        assert all(answers[fact.question] == fact.target_new for fact in part.facts)
        conflicting += len(run.packets) - len(kept)
    assert conflicting > 0


def test_slots_are_heeded(crossed):
    run, _ = crossed
    for part in PARTS:
        early = held(run, part.name, until=0)
        assert {packet.slot for packet in early} == {0} and set(ids(early)) < set(run.packets)


def test_the_order_of_arrival_does_not_change_a_bit(crossed):
    """The second federation has the same clients in another order, so that everything arrives in another order."""
    run, _ = crossed
    lm, provider, moments = scenario()
    other = run_fedit(lm, PARTS[::-1], Everyone(), provider=provider, secret=b"the clients' own")
    assert ids(run.adopted("client 0")) != [] and run.ledger != other.ledger
    for part in PARTS:
        one, two = cumulative(run, part.name, moments), cumulative(other, part.name, moments)
        assert all(torch.equal(one.delta(layer), two.delta(layer)) for layer in LAYERS)


def test_totals_of_clients_make_the_centralised_edit(crossed):
    run, _ = crossed
    _, _, moments = scenario()
    paths, taken = [], set()
    for part in PARTS:
        paths.append([packet for packet in run.own(part.name) if packet.id not in taken])
        taken |= set(ids(paths[-1]))
    with pytest.warns(UserWarning, match="2 questions have more than one answer"):  # the clients' conflicts
        whole = trajectory([packet for own in paths for packet in own], moments)
        summed = baselines.summed_statistics(paths, moments)
    for layer in LAYERS:
        torch.testing.assert_close(summed.delta(layer), whole.delta(layer), rtol=1e-9, atol=1e-9)


def test_one_slot_alone_is_the_same_in_either_form():
    lm, provider, moments = scenario()
    run = run_fedit(lm, [Part("a", (tuple(facts()[:3]),), ())], Nobody(), provider=provider, secret=b"the clients' own")
    one, two = cumulative(run, "a", moments), sequential(run, "a", moments)[0]
    for layer in LAYERS:
        torch.testing.assert_close(one.delta(layer), two.delta(layer), rtol=1e-9, atol=1e-12)


def test_sequential_is_the_sum_of_the_stages(crossed):
    run, _ = crossed
    _, _, moments = scenario()
    name = PARTS[0].name
    stages, before, by_hand = [], set(), []
    for slot in (0, 1):
        now, own = held(run, name, slot), set(ids(run.own(name, slot)))
        for mine in (True, False):
            stages.append([p for p in now if p.id not in before and (p.id in own) == mine])
        before |= set(ids(now))
        by_hand.append(sum(trajectory(stage, moments).delta(1) for stage in stages if stage))
    found = sequential(run, name, moments)
    assert [*found] == [0, 1]
    for edit, expected in zip(found.values(), by_hand, strict=True):
        torch.testing.assert_close(edit.delta(1), expected, rtol=1e-9, atol=1e-12)
    (last,) = sequential(run, name, moments, slots=[1]).values()
    assert torch.equal(last.delta(1), found[1].delta(1))
    with pytest.raises(ValueError, match="the run has no slot 2: give slots from 0 to 1"):
        sequential(run, name, moments, slots=[1, 2])


def test_with_text_memit_runs_on_the_edited_model(crossed):
    run, _ = crossed
    lm, _, moments = scenario()
    before = lm.weight(1).clone()
    found = sequential_with_text(run, lm, PARTS[0].name, moments)[0]
    assert torch.equal(lm.weight(1), before) and not lm.edits
    name = PARTS[0].name
    own = set(ids(run.own(name, 0)))
    first, second = ([p for p in held(run, name, 0) if (p.id in own) == mine] for mine in (True, False))
    edit = memit(lm, [run.fact(p.id) for p in first], first, moments)
    with edit.applied(lm):
        again = memit(lm, [run.fact(p.id) for p in second], second, moments)
    torch.testing.assert_close(found.delta(1), edit.delta(1) + again.delta(1), rtol=1e-6, atol=1e-9)
    with found.applied(lm):  # the sum belongs to the base model, and the second step alone does not
        pass
    with pytest.raises(ValueError, match="fingerprints differ"):
        again.apply(lm)
    with pytest.raises(ValueError, match=r"^these edits were computed on several models: give .* one model\.$"):
        sum_edits([edit, again])


def test_with_text_keys_are_read_in_the_contexts_of_the_base_model(crossed, monkeypatch):
    """Also where a model writes its contexts itself, and edits are applied when keys are read."""
    run, _ = crossed
    lm, _, moments = scenario()
    lm, read_in, edits = replace(lm, preset=replace(lm.preset, contexts=None)), [], []

    def seen(lm, facts, contexts, layers):
        read_in.append(contexts), edits.append(len(lm.edits))
        return read(lm, facts, contexts, layers)

    monkeypatch.setattr(write, "read", seen)
    sequential_with_text(run, lm, PARTS[0].name, moments)
    assert set(read_in) == {contexts_for(lm)} and max(edits) > 0


def test_a_policy_sees_vectors_that_separate_or_not(crossed):
    run, _ = crossed
    lm, provider, _ = scenario()
    some = run_fedit(
        lm,
        PARTS,
        ClientConfig(Threshold(0.3), representation="residual"),
        provider=provider,
        secret=b"the clients' own",
    )
    adopted = [len(some.adopted(part.name)) for part in PARTS]
    assert 0 < sum(adopted) < sum(len(run.adopted(part.name)) for part in PARTS)
    slotwise = run_fedit(
        lm,
        PARTS,
        ClientConfig(Threshold(0.3), "residual", looks_back=False),
        provider=provider,
        secret=b"the clients' own",
    )
    for part in PARTS:
        assert {p.id for p in slotwise.adopted(part.name)} <= {p.id for p in some.adopted(part.name)}


def test_averages_and_sums_of_updates():
    _, provider, moments = scenario()
    paths = [[prepared.trajectory for prepared in provider(facts()[i : i + 3])] for i in (0, 3, 6)]
    edits = baselines.local_only(paths, moments)
    deltas = [edit.delta(1) for edit in edits]
    torch.testing.assert_close(baselines.fedavg(edits).delta(1), sum(deltas) / 3)
    torch.testing.assert_close(baselines.fedavg(edits, [1, 0, 3]).delta(1), (deltas[0] + 3 * deltas[2]) / 4)
    torch.testing.assert_close(baselines.fedsum(edits).delta(1), sum(deltas))
    torch.testing.assert_close(baselines.fedavg(edits, step=2.5).delta(1), 2.5 * sum(deltas) / 3)
    torch.testing.assert_close(baselines.fedavg(edits, step=3).delta(1), baselines.fedsum(edits).delta(1))
    torch.testing.assert_close(sum_edits(edits[:1]).delta(1), deltas[0])
    assert baselines.last_client(edits) is edits[2]
    with pytest.raises(ValueError, match="3 edits"):
        baselines.fedavg(edits, [1, 2])


def test_the_tuned_step_is_the_one_with_the_greatest_score():
    """Each step's edit measured by itself; the model is unchanged."""
    lm, provider, moments = scenario()
    parts = [facts()[i : i + 3] for i in (0, 3, 6)]
    edits = baselines.local_only([[one.trajectory for one in provider(part)] for part in parts], moments, lam=0.01)
    near = (Neighbour("The capital of Ulm is", "Japan"),)
    some = [replace(f, paraphrases=(f"Now {f.question}",), neighbours=near) for f in chain(*parts)]
    steps, before = (1.0, 30.0, 3.0, 10.0, -5.0), lm.weight(1).clone()

    def merge(step):
        return baselines.fedavg(edits, [1, 2, 3], step)

    def score(step):
        with merge(step).applied(lm):
            return evaluate(lm, some).score

    scores = {step: score(step) for step in steps}
    best = baselines.tuned(lm, merge, some, steps)
    assert scores[best] == max(scores.values()) > min(scores.values())
    assert best == next(step for step in steps if scores[step] == scores[best])
    assert torch.equal(lm.weight(1), before) and not lm.edits
    with pytest.raises(ValueError, match="no values to try"):
        baselines.tuned(lm, merge, some, ())
    with pytest.raises(ValueError, match=r"^these facts have no score: give some that have paraphrases and"):
        baselines.tuned(lm, merge, facts(), steps[:1])


def test_central_memit_with_another_lambda():
    lm, provider, moments = scenario()
    mkvs = [one.mkv for one in provider(facts()[:4])]
    for lam in (None, 5.0):
        wanted = memit(lm, facts()[:4], mkvs, moments, hparams=replace(lm.preset.memit, lam=lam or 1.0))
        assert torch.equal(baselines.centralised(lm, facts()[:4], mkvs, moments, lam).delta(1), wanted.delta(1))


def test_fedit_as_published_is_the_last_slot_of_the_sequential_form_with_text():
    lm, provider, moments = scenario()
    run = run_fedit(lm, PARTS, PUBLISHED, provider=provider, secret=b"the clients' own")
    assert ClientConfig(Majority(0.4, 0.5), representation="raw", looks_back=False) == PUBLISHED
    for part in PARTS[:2]:
        wanted = sequential_with_text(run, lm, part.name, moments)[run.slots - 1]
        found = published_fedit(run, lm, part.name, moments)
        assert all(torch.equal(found.delta(layer), wanted.delta(layer)) for layer in LAYERS)


def test_collabedit_is_memit_on_everybodys_facts():
    lm, provider, moments = scenario()
    split = [facts()[0:4], facts()[4:9], facts()[9:11]]
    mkvs = [[prepared.mkv for prepared in provider(own)] for own in split]
    merged = baselines.collabedit(lm, split, mkvs, moments)
    whole = baselines.centralised(lm, [*chain(*split)], [*chain(*mkvs)], moments)
    for layer in LAYERS:
        torch.testing.assert_close(merged.delta(layer), whole.delta(layer), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sizes", [(), (0,), (5, 0, 300), (1,) * 2000])
def test_packets_of_any_size_are_cut_apart(sizes):
    class Answering:
        def handle(self, kind, body, sender):
            asked = [left.pop(0) for _ in range(len(body) // 32)]
            return b"".join(struct.pack("<I", len(data)) + data for data in asked)

    packets = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
    left = packets.copy()
    channel = Channel(Answering(), "ada")
    assert channel.get(["00" * 32] * len(sizes)) == packets
    assert channel.received == sum(sizes) + 4 * len(sizes)


def test_an_unknown_message_is_refused(tmp_path):
    with Registry(tmp_path / "r.db") as registry, pytest.raises(ValueError, match="'steal'"):
        Server(registry).handle("steal", b"")


def test_malformed_requests_get_one_sentence(tmp_path):
    with Registry(tmp_path / "r.db") as registry:
        for body in (b"", b"7", b'[null, "a"]', b"[1, 2]", b'[true, "a"]', b"[" * 10**5, b'[99999999999, "a"]'):
            with pytest.raises(ValueError, match="slot and a client"):
                Server(registry).handle("offers", body)
        with pytest.raises(ValueError, match="ids of 32 bytes"):
            Server(registry).handle("get", b"x" * 33)


def test_a_client_does_not_believe_everything(crossed, monkeypatch):
    """A server that answers with another packet, or with a broken one, is found out."""
    lm, provider, _ = scenario()
    run, _ = crossed
    other = next(iter(run.packets.values()))
    monkeypatch.setattr(Channel, "find", lambda self, tag: other.data)
    with pytest.raises(ValueError, match="does not carry the tag"):
        run_fedit(lm, PARTS, Everyone(), provider=provider, secret=b"the clients' own")
    monkeypatch.setattr(Channel, "find", lambda self, tag: other.data[:-1])
    with pytest.raises(ValueError, match="not a packet"):
        run_fedit(lm, PARTS, Everyone(), provider=provider, secret=b"the clients' own")
    monkeypatch.setattr(Channel, "find", lambda self, tag: None)
    monkeypatch.setattr(Channel, "get", lambda self, names: [other.data for _ in names])
    with pytest.raises(ValueError, match="was asked for"):
        run_fedit(lm, PARTS, Everyone(), provider=provider, secret=b"the clients' own")


def test_a_run_wants_a_new_file_and_everybodys_configuration(tmp_path):
    lm, provider, _ = scenario()
    run_fedit(lm, PARTS, Nobody(), provider=provider, path=tmp_path / "r.db", secret=b"the clients' own")
    with pytest.raises(ValueError, match="already"):
        run_fedit(lm, PARTS, Nobody(), provider=provider, path=tmp_path / "r.db", secret=b"the clients' own")
    with pytest.raises(ValueError, match="client 1"):
        run_fedit(
            lm,
            PARTS,
            {"client 0": ClientConfig(Nobody()), "client 2": ClientConfig(Nobody())},
            provider=provider,
            secret=b"the clients' own",
        )
    with pytest.raises(ValueError, match="'key'"):
        ClientConfig(Nobody(), representation="key")


@pytest.mark.model
def test_a_fact_that_cannot_be_shared_stops_the_run_before_it_begins(lm):
    """On the default model: one such packet would be in the sums of everybody."""
    chicago = Fact("Chicago", "{} is a twin city of", "Damascus", "Warsaw")
    parts = (Part("ada", ((chicago,),), ()), Part("bo", ((),), ()))
    with pytest.raises(
        ValueError, match="1 of 1 facts cannot be shared, the first of them 'Chicago is a twin city of'"
    ):
        run_fedit(
            lm,
            parts,
            Everyone(),
            provider=lambda facts, starts=None: pytest.fail("it was computed"),
            secret=b"the clients' own",
        )


def test_vectors_belong_to_the_base_model(crossed):
    run, _ = crossed
    lm, provider, moments = scenario()
    with cumulative(run, "client 0", moments).applied(lm), pytest.raises(ValueError, match="base model"):
        trajectories(lm, facts()[:1], [provider(facts()[:1])[0].mkv])
    with pytest.raises(ValueError, match="no client of this run"):
        run.fact("0" * 64)
