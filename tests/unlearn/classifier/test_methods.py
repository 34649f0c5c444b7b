"""Withdrawal from a classifier: against scikit-learn, finite differences, sums by hand, and the retrained weights."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fleke_lib.unlearn.classifier import methods as classifier
from fleke_lib.unlearn.classifier.hospitals import (
    Exact,
    FedAvg,
    Hospital,
    Trained,
    UnlearningRequest,
    breast_cancer,
    gradient,
    hessian,
    loss,
    mean,
    pool,
    some_patients,
    whole_hospital,
)
from fleke_lib.unlearn.classifier.methods import METHODS, compare

STUDY = breast_cancer(seed=0)
REQUESTS = ("one patient", "20 patients", *(f"hospital {name}" for name in "ABCDE"))


@cache
def trained(local_steps: int) -> Trained:
    return FedAvg(rounds=1000 // local_steps, local_steps=local_steps).train(STUDY.hospitals)


@cache
def request_of(name: str) -> UnlearningRequest:
    if name.startswith("hospital"):
        return whole_hospital(STUDY.hospitals, name[-1])
    return some_patients(STUDY.hospitals, 1 if name == "one patient" else 20, seed=0)


@cache
def outcome(method: str, local_steps: int, name: str):
    return METHODS[method](trained(local_steps), request_of(name))


def distance(method: str, local_steps: int, name: str) -> float:
    return compare(outcome(method, local_steps, name), outcome("retrain", local_steps, name), STUDY.test).distance


def nearer(method: str, local_steps: int, name: str) -> float:
    """How many times nearer to the retrained weights than doing nothing."""
    return distance("nothing", local_steps, name) / distance(method, local_steps, name)


def tiny(seed: int = 0) -> tuple[Hospital, ...]:
    rng = np.random.default_rng(seed)
    sizes = {"A": 7, "B": 5}
    return tuple(
        Hospital(name, np.column_stack([np.ones(n), rng.normal(size=(n, 2))]), rng.integers(2, size=n).astype(float))
        for name, n in sizes.items()
    )


def test_the_table_is_split_unevenly_and_without_loss():
    sizes = [len(hospital) for hospital in STUDY.hospitals]
    assert sizes == sorted(set(sizes), reverse=True) and len(sizes) == 5
    assert sum(sizes) + len(STUDY.test) == 569
    training = pool(STUDY.hospitals).features
    rows = np.concatenate([training, STUDY.test.features])
    assert len(np.unique(rows, axis=0)) == 569
    np.testing.assert_allclose(training[:, 1:].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(training[:, 1:].std(0), 1)
    again, other = breast_cancer(seed=0), breast_cancer(seed=1)
    np.testing.assert_array_equal(again.test.features, STUDY.test.features)
    assert not np.array_equal(other.test.labels, STUDY.test.labels)


def test_gradient_hessian_and_jacobian_against_finite_differences():
    hospital, rng = STUDY.hospitals[4], np.random.default_rng(0)
    weights, step = 0.3 * rng.normal(size=31), 1e-5
    recipe = FedAvg(local_steps=5)

    def slope(function):
        return np.array([(function(weights + e) - function(weights - e)) / (2 * step) for e in step * np.eye(31)])

    np.testing.assert_allclose(slope(lambda w: loss(hospital, w, 0.1)), gradient(hospital, weights, 0.1), atol=1e-8)
    np.testing.assert_allclose(slope(lambda w: gradient(hospital, w, 0.1)), hessian(hospital, weights, 0.1), atol=1e-8)
    jacobian = recipe.jacobian(hospital, weights)
    np.testing.assert_allclose(slope(lambda w: recipe.local(hospital, w)).T, jacobian, atol=1e-8)
    assert np.abs(jacobian - jacobian.T).max() > 1e-3  # so that a transposed one would be seen


def test_one_local_step_ends_at_the_optimum_that_scikit_learn_finds():
    everybody = pool(STUDY.hospitals)
    reference = LogisticRegression(
        C=1 / (0.1 * len(everybody)), fit_intercept=False, tol=1e-12, max_iter=1000, solver="newton-cholesky"
    )
    wanted = reference.fit(everybody.features, everybody.labels).coef_[0]
    np.testing.assert_allclose(trained(1).weights, wanted, atol=1e-6)
    np.testing.assert_allclose(Exact().train(STUDY.hospitals).weights, wanted, atol=1e-6)
    np.testing.assert_allclose(trained(1).weights, Exact().train(STUDY.hospitals).weights, atol=1e-9)


def test_several_local_steps_end_at_the_rounds_fixed_point_which_is_no_optimum():
    weights, recipe = trained(5).weights, trained(5).recipe
    after = mean(STUDY.hospitals, [recipe.local(hospital, weights) for hospital in STUDY.hospitals])
    np.testing.assert_allclose(after, weights, atol=1e-10)
    assert np.linalg.norm(gradient(pool(STUDY.hospitals), weights, recipe.lam)) > 1e-3


@pytest.mark.parametrize("name", REQUESTS)
def test_retraining_is_training_without_them(name):
    gone = [set(rows) for rows in request_of(name).rows]
    kept = [
        hospital.pick([row for row in range(len(hospital)) if row not in rows])
        for hospital, rows in zip(STUDY.hospitals, gone, strict=True)
    ]
    wanted = trained(1).recipe.train([hospital for hospital in kept if len(hospital)]).weights
    np.testing.assert_array_equal(outcome("retrain", 1, name).weights, wanted)


@pytest.mark.parametrize("name", REQUESTS)
def test_at_the_optimum_the_newton_step_is_fifteen_times_nearer_than_nothing(name):
    assert nearer("newton", 1, name) >= 15
    assert nearer("newton", 1, name) > nearer("influence", 1, name) > 1


@pytest.mark.parametrize("name", REQUESTS)
def test_with_one_local_step_both_newton_steps_are_the_same(name):
    one, other = outcome("newton", 1, name), outcome("round newton", 1, name)
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-9)


@pytest.mark.parametrize("name", REQUESTS)
def test_with_five_local_steps_newton_misses_by_the_drift_and_the_rounds_newton_does_not(name):
    drift = np.linalg.norm(trained(5).weights - trained(1).weights)
    assert distance("newton", 5, name) > drift / 2
    assert nearer("round newton", 5, name) >= 15
    assert nearer("round newton", 5, name) > 2 * nearer("newton", 5, name)


def test_for_one_patient_newton_is_then_worse_than_doing_nothing():
    assert nearer("newton", 5, "one patient") < 1
    assert nearer("influence", 5, "one patient") > 1  # it never sees the drift: only the leaving patients' gradient


@pytest.mark.parametrize("name", REQUESTS)
def test_each_exchange_squares_the_error(name):
    goal = outcome("retrain", 5, name)
    first, second, third = (
        compare(classifier.round_newton(trained(5), request_of(name), n), goal, STUDY.test).distance for n in (1, 2, 3)
    )
    assert second < first**2 and third < max(second**2, 1e-11)


@pytest.mark.parametrize("local_steps", [1, 5])
def test_nobody_leaves_and_nothing_moves(local_steps):
    nobody = UnlearningRequest("nobody", ((),) * 5)
    weights = trained(local_steps).weights
    for method in ("influence", "round newton", "gradient ascent", "calibrated replay", "retrain"):
        np.testing.assert_allclose(METHODS[method](trained(local_steps), nobody).weights, weights, atol=1e-9)
    newton = METHODS["newton"](trained(local_steps), nobody).weights
    assert (np.linalg.norm(newton - weights) < 1e-9) == (local_steps == 1)


def test_influence_and_ascent_by_hand():
    hospitals = tiny()
    model = FedAvg(rounds=300, rate=0.5, lam=0.5).train(hospitals)
    request = UnlearningRequest("three", ((1, 4), (2,)))
    w, gone = model.weights, [hospitals[0].pick([1]), hospitals[0].pick([4]), hospitals[1].pick([2])]
    g = sum((1 / (1 + np.exp(-h.features[0] @ w)) - h.labels[0]) * h.features[0] + 0.5 * w for h in gone)
    H = (7 * hessian(hospitals[0], w, 0.5) + 5 * hessian(hospitals[1], w, 0.5)) / 12
    np.testing.assert_allclose(classifier.influence(model, request).weights, w + np.linalg.inv(H) @ g / 12)
    found = classifier.gradient_ascent(model, request, steps=1, rate=0.2).weights
    np.testing.assert_allclose(found, w + 0.2 / 12 * g)
    both = pool(gone)
    assert loss(both, classifier.gradient_ascent(model, request).weights, 0.0) > loss(both, w, 0.0)


def test_replay_by_hand():
    """Three rounds, A leaves: B's directions from the replayed weights, with the stored lengths."""
    hospitals = tiny()
    model = FedAvg(rounds=3, rate=0.5, lam=0.5).train(hospitals)
    every, second = np.zeros(3), np.zeros(3)
    for number in (0, 1, 2):
        length = np.linalg.norm(model.updates[number, 1])
        step = -gradient(hospitals[1], every, 0.5)
        every = every + length * step / np.linalg.norm(step)
        if number != 1:
            step = -gradient(hospitals[1], second, 0.5)
            second = second + length * step / np.linalg.norm(step)
    request = whole_hospital(hospitals, "A")
    np.testing.assert_allclose(classifier.calibrated_replay(model, request).weights, every)
    np.testing.assert_allclose(classifier.calibrated_replay(model, request, every=2).weights, second)


def test_messages_follow_the_four_steps_and_are_counted():
    found = outcome("newton", 1, "hospital B")
    assert [m.step for m in found.messages] == [
        "identification", *["aggregation"] * 4, *["global update"] * 4
    ]  # fmt: skip
    assert found.sent == 8 + 4 * 8 * (31 + 31 * 32 // 2) + 4 * 8 * 31
    assert all(m.sender != "B" for m in found.messages if m.step != "identification")
    repaired = outcome("round newton", 5, "hospital B")
    assert repaired.sent == 8 + 4 * 8 * (31 + 31 * 31) + 4 * 8 * 31
    assert outcome("retrain", 5, "hospital B").sent == 8 + 2 * 200 * 4 * 8 * 31 + 4 * 8 * 31
    assert outcome("nothing", 1, "hospital B").sent == 8
    assert repaired.seconds < outcome("retrain", 5, "hospital B").seconds


def test_requests():
    twenty = request_of("20 patients")
    assert sum(map(len, twenty.rows)) == 20
    assert twenty == some_patients(STUDY.hospitals, 20, seed=0) != some_patients(STUDY.hospitals, 20, seed=1)
    kept, gone = twenty.remaining(STUDY.hospitals), twenty.leaving(STUDY.hospitals)
    rows = np.concatenate([pool(kept).features, pool(gone).features])
    assert len(np.unique(rows, axis=0)) == 398 and len(pool(gone)) == 20
    assert [hospital.name for hospital in request_of("hospital C").remaining(STUDY.hospitals)] == list("ABDE")


def test_what_cannot_be_done_is_said():
    with pytest.raises(ValueError, match="no hospital 'Z'"):
        whole_hospital(STUDY.hospitals, "Z")
    with pytest.raises(ValueError, match="from 1 to 397"):
        some_patients(STUDY.hospitals, 398)
    alone = tiny()[:1]
    with pytest.raises(ValueError, match="leaves no patient"):
        classifier.newton(Exact().train(alone), whole_hospital(alone, "A"))
    exact = Exact().train(tiny())
    for method in (classifier.round_newton, classifier.calibrated_replay):
        with pytest.raises(ValueError, match="train it with FedAvg"):
            method(exact, UnlearningRequest("one", ((1,), ())))
    with pytest.raises(ValueError, match="needs hospitals with patients"):
        FedAvg().train([replace(alone[0], features=np.zeros((0, 3)), labels=np.zeros(0))])
