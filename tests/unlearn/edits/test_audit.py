"""The audit on a tiny model: exact withdrawals pass, others fail, and each AUC equals a count of pairs."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from fleke_lib.edit import finetune
from fleke_lib.evaluation.likelihood import log_probs
from fleke_lib.evaluation.metrics import evaluate
from fleke_lib.federation.ledger import Ledger
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import pack
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.model.presets import FinetuneHparams
from fleke_lib.ridge.solve import LowRank
from fleke_lib.unlearn.edits.audit import MARGIN, audit, membership_signal, signal
from fleke_lib.unlearn.edits.replay import replay_check
from fleke_lib.unlearn.edits.withdrawal import withdraw
from tests.federation.small import facts, scenario
from tests.tiny import D_MODEL

# two subjects of each relation are withdrawn, two stay, and two nobody ever edited
WITHDRAWN, RETAINED, CONTROLS = (
    [fact for i, fact in enumerate(facts()) if i % 6 in pair] for pair in ((0, 3), (1, 4), (2, 5))
)
LAYER, EYE = 2, torch.eye(D_MODEL)
LOADED = [*WITHDRAWN, *RETAINED]


@pytest.fixture(scope="module")
def edits():
    """The whole edit, the one of a federation that never had the withdrawn facts, and these facts' own.

    Fine-tuned without a bound: the one method that moves a model of random weights far.
    """
    lm, _, _ = scenario()
    strong = FinetuneHparams(LAYER, steps=40, lr=0.01, bound=None)
    groups = {"whole": LOADED, "never": RETAINED, "own": WITHDRAWN}
    return {name: finetune(lm, some, strong) for name, some in groups.items()}


@pytest.fixture
def packets(tmp_path):
    """All packets, in a registry from which the withdrawn ones were erased; by fact."""
    lm, provider, _ = scenario()
    found = {}
    with Registry(tmp_path / "registry.sqlite", Rules.of(lm)) as registry:
        for fact, prepared in zip(LOADED, provider(LOADED), strict=True):
            client = "bob" if fact in WITHDRAWN else "ada"
            tags = {"question": Tags(b"s").question(fact), "answer": Tags(b"s").answer(fact)}
            found[fact] = pack(prepared.trajectory, prepared.mkv, client, 0, tags, Compression(1, "float16"))
            registry.put(found[fact].data)
        registry.withdraw(client="bob")
    return found


def audited(edits, packets, place, after, **changes):
    lm, _, _ = scenario()
    given = {
        "withdrawn": WITHDRAWN,
        "retained": RETAINED,
        "controls": CONTROLS,
        "folder": place,
        "packets": [packets[fact] for fact in WITHDRAWN],
        "kept": [packets[fact] for fact in RETAINED],
        "samples": 200,
    }
    return audit(lm, edits["whole"], after, edits["never"], **{**given, **changes})


def test_an_exact_withdrawal_passes_every_check(edits, packets, tmp_path):
    lm, _, _ = scenario()
    weight = lm.weight(LAYER).clone()
    remade = replace(edits["never"], changes={LAYER: copy.deepcopy(edits["never"].changes[LAYER])})
    evidence = audited(edits, packets, tmp_path, remade)
    assert evidence.equal and evidence.distance == 0
    moved = edits["whole"].delta(LAYER).double() - edits["never"].delta(LAYER).double()
    assert evidence.moved == float(moved.abs().max())
    assert evidence.membership["after"] == evidence.membership["control"]
    assert len(evidence.traces) == 0 < evidence.traces.pieces
    assert all(check.passed for check in evidence.checks()) and len(evidence.checks()) == 3
    assert not any(evidence.implied().values()) and evidence.implied().items() <= evidence.checks()[0].figures.items()
    assert not lm.edits and lm.weight(LAYER).equal(weight)


def test_without_a_withdrawal_every_check_on_it_fails(edits, packets, tmp_path):
    """The checks can fail: the same audit of a model and a file from which nothing was taken."""
    (tmp_path / "copy.bin").write_bytes(packets[WITHDRAWN[0]].data)
    evidence = audited(edits, packets, tmp_path, edits["whole"])
    assert [check.passed for check in evidence.checks()] == [False] * 3
    assert min(evidence.implied().values()) > 0
    assert evidence.distance == evidence.moved > 0 and not evidence.equal
    assert {trace.file.name for trace in evidence.traces} == {"copy.bin"}


def test_one_bit_is_seen(edits, packets, tmp_path):
    left, right = edits["never"].changes[LAYER].left, edits["never"].changes[LAYER].right.clone()
    right[3, 5] = torch.nextafter(right[3, 5], torch.tensor(9.0))
    evidence = audited(edits, packets, tmp_path, replace(edits["never"], changes={LAYER: LowRank(left, right)}))
    passed = [check.passed for check in evidence.checks()]
    assert not evidence.equal and 0 < evidence.distance < 1e-6 and passed == [False, True, True]
    assert max(evidence.implied().values()) < 0.01


def test_a_control_that_had_the_facts_is_noticed_by_the_answers(edits, packets, tmp_path):
    """Weights equal a control's that was no control: the other checks hold, and the comparison with the base fails."""
    lm, _, _ = scenario()
    some = {"withdrawn": WITHDRAWN, "retained": RETAINED, "controls": CONTROLS, "samples": 50}
    gone = [packets[fact] for fact in WITHDRAWN]
    evidence = audit(lm, edits["whole"], edits["whole"], edits["whole"], folder=tmp_path, packets=gone, **some)
    weights, answers, found = evidence.checks()
    assert weights.passed and found.passed and not answers.passed
    base, after = (evaluate(lm, WITHDRAWN).per_fact["probability"], evidence.withdrawn["after"].per_fact["probability"])
    assert answers.figures["difference"] == pytest.approx((after - base).mean(), abs=1e-6)
    low, high = stats.t.interval(0.9, 5, (after - base).mean(), stats.sem(after - base))
    assert (answers.figures["low"], answers.figures["high"]) == pytest.approx((low, min(high, 1)), abs=1e-6)


def test_bytes_that_stayed_fail_alone(edits, packets, tmp_path):
    (tmp_path / "copy.bin").write_bytes(packets[WITHDRAWN[0]].data)
    assert [check.passed for check in audited(edits, packets, tmp_path, edits["never"]).checks()] == [True, True, False]


def test_fewer_facts_make_equivalence_harder(edits, packets, tmp_path):
    """One fact, or the same differences seen on fewer facts, never passes where more fail."""
    one = audited(edits, packets, tmp_path, edits["never"], withdrawn=WITHDRAWN[:1]).checks()[1]
    assert not one.passed and (one.figures["low"], one.figures["high"]) == (-1, 1), "finite for a certificate"
    evidence = audited(edits, packets, tmp_path, edits["never"])
    for shift in (0.0, 0.01, 0.03, 0.06):
        passed = []
        for n in (1, 2, 6, 30, 300):
            apart = shift + 0.05 * np.resize([1.0, -1.0], n)
            found = {
                stage: replace(e, per_fact=e.per_fact | {"probability": (stage == "after") * apart + 0.1})
                for stage, e in evidence.withdrawn.items()
            }
            passed.append(replace(evidence, withdrawn=found).checks()[1].passed)
        assert passed == sorted(passed) and passed[0] is False and passed[-1] == (shift < MARGIN)


@pytest.fixture
def federated(tmp_path):
    """A run, what is left after bob's withdrawal, bob's packets, and the registry's file, from which they are gone."""
    lm, provider, _ = scenario()
    parts = partition(facts()[:12], 3, slots=2, overlap=0.3, seed=0)
    who, file = parts[1].name, tmp_path / "run.sqlite"
    run = run_fedit(lm, parts, Everyone(), provider=provider, path=file, secret=b"the clients' own")
    gone = [packet for packet in run.own(who) if packet.client == who]
    with Registry(file, Rules.of(lm)) as registry:
        registry.complete(registry.withdraw(client=who))
    return run, withdraw(run, client=who, provider=provider), gone, file


def test_the_ledger_replays(federated):
    run, after, gone, file = federated
    check = replay_check(after, gone, file)
    assert check.passed and check.figures["events"] > 10 and check.figures["stored packets not in the replay"] == 0
    assert replay_check(after, gone).passed, "without a registry"
    assert not replay_check(run, gone).passed, "the ledger still names them"


def test_a_changed_ledger_fails_the_replay(federated):
    run, after, gone, _ = federated
    adopted = next(event for event in run.ledger if event.packet in {packet.id for packet in gone})
    named = replay_check(replace(after, ledger=after.ledger.plus([adopted])), gone)
    assert not named.passed and named.figures["withdrawn packets named"] == 1
    less = replace(after, ledger=Ledger(after.ledger.events[1:]))
    assert replay_check(less, gone).figures["events that differ"] > 0 and not replay_check(less, gone).passed
    packet = next(iter(after.packets))
    lost = replace(after, packets={name: one for name, one in after.packets.items() if name != packet})
    assert replay_check(lost, gone).figures["packets that differ"] == 1 and not replay_check(lost, gone).passed


def test_a_registry_that_kept_a_packet_fails_the_replay(federated):
    lm, _, _ = scenario()
    _, after, gone, file = federated
    with Registry(file, Rules.of(lm)) as registry:
        registry.put(gone[0].data, gone[0].client)
    check = replay_check(after, gone, file)
    assert not check.passed and check.figures["stored packets not in the replay"] == 1
    with Registry(file, Rules.of(lm)) as registry:
        registry.withdraw(client=gone[0].client)
    check = replay_check(after, gone, file)
    assert not check.passed and check.figures["pending requests"] == 1


def test_the_audit_includes_the_replay(edits, packets, tmp_path, federated):
    _, after, _, _ = federated
    names = [check.name for check in audited(edits, packets, tmp_path, edits["never"], run=after).checks()]
    assert len(names) == 4 and names[3] == "ledger and registry replay without the withdrawn packets"


def test_taking_off_ones_own_update_is_not_never_having_joined(edits, packets, tmp_path):
    less = edits["whole"].delta(LAYER) - edits["own"].delta(LAYER)
    evidence = audited(edits, packets, tmp_path, replace(edits["whole"], changes={LAYER: LowRank(EYE, less)}))
    weights, *_ = evidence.checks()
    assert not weights.passed and weights.figures["distance"] == evidence.distance > 0.1 * evidence.moved
    assert 0.01 < weights.figures["implied: retained scores differ by"] <= 2


def test_scores_are_those_of_the_models(edits, packets, tmp_path):
    lm, _, _ = scenario()
    evidence = audited(edits, packets, tmp_path, edits["never"])
    for stage, edit in {"before": edits["whole"], "control": edits["never"]}.items():
        with edit.applied(lm):
            for group, some in {"withdrawn": WITHDRAWN, "retained": RETAINED}.items():
                expected, found = evaluate(lm, some), getattr(evidence, group)[stage]
                np.testing.assert_allclose(found.per_fact["probability"], expected.per_fact["probability"], rtol=1e-4)
                assert found.facts == tuple(some)
    base = evaluate(lm, WITHDRAWN).per_fact["probability"]
    np.testing.assert_allclose(evidence.withdrawn["base"].per_fact["probability"], base, rtol=1e-4)
    figures = evidence.checks()[1].figures
    assert figures["top1 base"] == evidence.withdrawn["base"].top1


def test_the_last_client_leaves_the_base_model(packets, edits, tmp_path):
    lm, _, _ = scenario()
    some = {"withdrawn": WITHDRAWN, "retained": RETAINED, "controls": CONTROLS, "samples": 50}
    gone = [packets[fact] for fact in WITHDRAWN]
    evidence = audit(lm, edits["own"], None, None, folder=tmp_path, packets=gone, **some)
    assert evidence.equal and evidence.distance == 0 < evidence.moved
    np.testing.assert_allclose(
        evidence.withdrawn["after"].per_fact["probability"],
        evidence.withdrawn["base"].per_fact["probability"],
        rtol=1e-5,
    )
    still = audit(lm, edits["own"], edits["own"], None, folder=tmp_path, packets=gone, **some)
    assert not still.equal and still.distance == still.moved


def margins(lm, some):
    questions = [fact.question for fact in some]
    new, true = (log_probs(lm, questions, [getattr(f, name) for f in some]) for name in ("target_new", "target_true"))
    return (new - true).double().numpy()


def pairs(one, other):
    return np.mean([(a > b) + 0.5 * (a == b) for a in one for b in other])


def test_membership_is_the_share_of_pairs(edits):
    lm, _, _ = scenario()
    base = margins(lm, WITHDRAWN), margins(lm, CONTROLS)
    with edits["whole"].applied(lm):
        seen = margins(lm, WITHDRAWN), margins(lm, CONTROLS)
    found = membership_signal(lm, edits["whole"], WITHDRAWN, CONTROLS, samples=50)
    assert found.alone.auc == pytest.approx(pairs(*seen))
    assert found.with_base.auc == pytest.approx(pairs(seen[0] - base[0], seen[1] - base[1]))
    assert found.with_base.auc > 0.8
    nothing = membership_signal(lm, None, WITHDRAWN, CONTROLS, samples=50)
    assert nothing.alone.auc == pytest.approx(pairs(*base))
    assert nothing.with_base.auc == pytest.approx(0.5, abs=0.2), "rounding alone differs"


def test_the_interval_is_that_of_drawing_again():
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.7, 1, 40), rng.normal(0, 1, 25)
    found = signal(members, others, samples=20000)
    drawn = [
        (rng.choice(members, len(members))[:, None] > rng.choice(others, len(others))).mean() for _ in range(20000)
    ]
    assert found.auc == roc_auc_score([1] * 40 + [0] * 25, [*members, *others]) == pytest.approx(pairs(members, others))
    np.testing.assert_allclose(found.interval, np.quantile(drawn, [0.025, 0.975]), atol=0.01)
    assert signal(np.ones(9), np.zeros(9)).interval == (1, 1) and signal(np.ones(9), np.ones(7)).auc == 0.5
    assert signal(members, others) == signal(members, others) != signal(members, others, seed=1)


def test_bad_input_is_said(edits, packets, tmp_path):
    lm, _, _ = scenario()
    for match, changes in {
        "no facts": {"controls": []},
        "to one group, once": {"controls": WITHDRAWN[:1]},
        "there is no file": {"folder": tmp_path / "none"},
        "give the run after the withdrawal": {"registry": tmp_path / "registry.sqlite"},
    }.items():
        (tmp_path / "none").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=match):
            audited(edits, packets, tmp_path, edits["never"], **changes)
    with edits["own"].applied(lm), pytest.raises(ValueError, match="has 1 edits applied"):
        audited(edits, packets, tmp_path, edits["never"])
    with edits["own"].applied(lm), pytest.raises(ValueError, match="has 1 edits applied"):
        membership_signal(lm, None, WITHDRAWN, CONTROLS)
