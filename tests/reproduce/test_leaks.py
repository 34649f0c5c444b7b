"""The experiments on privacy, on a tiny model: each value by another route, and against a federation with a fault."""

import numpy as np
import pytest

from fleke_lib.federation.partitioning import partition
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.reproduce import leaks
from fleke_lib.reproduce.scenarios.scenario import SECRET, Scenario
from tests.federation.small import facts, scenario


@pytest.fixture(scope="module")
def small():
    """A scenario whose provider and moments are those of the small federation."""
    lm, provider, moments = scenario()
    one = Scenario(lm, tuple(facts()), moments, clients=4, slots=2)
    one.__dict__["provider"] = provider
    one.__dict__["parts"] = tuple(partition(facts(), 4, slots=2, seed=0))
    return one


def test_sealed_runs_and_withdrawals_differ_by_nothing(small):
    assert leaks.sealed_differs(small) == leaks.sealed_withdrawal(small) == 0


def test_a_run_without_seals_is_seen(small, monkeypatch):
    assert leaks.vectors_seen(small) == 0

    def plain(scenario, path, seals, tap=None):
        parts = scenario.parts
        return run_fedit(scenario.lm, parts, Everyone(), provider=scenario.provider, path=path, secret=SECRET, tap=tap)

    monkeypatch.setattr(leaks, "sealed", plain)
    assert leaks.vectors_seen(small) == len(small.everyone.packets)


def test_without_destroyed_keys_the_backup_opens(small, monkeypatch):
    assert leaks.opened_after_withdrawal(small) == 0

    class Careless(leaks.SealedStore):
        def withdraw(self, client=None, packets=None):
            return None

    monkeypatch.setattr(leaks, "SealedStore", Careless)
    assert leaks.opened_after_withdrawal(small) == len(small.gone) > 0


def test_masked_totals_are_those_of_numpy(small, monkeypatch):
    assert leaks.masked_differs(small) == 0
    honest = leaks.masked_total
    monkeypatch.setattr(leaks, "masked_total", lambda *given: (honest(*given)[0] + np.uint64(1), 0))
    assert leaks.masked_differs(small) > 0


def test_a_share_of_subjects_is_counted_by_hand(small, monkeypatch):
    names = sorted({fact.subject for fact in facts()})
    monkeypatch.setattr(leaks, "load_facts", lambda name: list(facts()))
    small.__dict__.pop("_known", None)
    known = leaks.known(small)
    assert list(known.subjects) == names and leaks.known(small) is known
    scores = leaks.subject_scores(leaks.seen(leaks.packets(small)), known)
    right = [names[int(row.argmax())] == fact.subject for row, fact in zip(scores, leaks.asked(small), strict=True)]
    assert leaks.subjects_named(small) == pytest.approx(sum(right) / len(right))
    small.__dict__.pop("_known", None)
