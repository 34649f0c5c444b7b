"""The image model: it has what an edit needs of a language model, and its vectors are those that autograd finds."""

import pytest
import torch

from fleke_lib.beyond import digits
from fleke_lib.beyond.faults import (
    ImageProvider,
    above,
    image_mkv,
    prepared,
    style_case,
    three_hospitals,
    trigger_case,
)
from fleke_lib.beyond.images import image_moments, load_digits_model, new_model, wrap_images
from fleke_lib.beyond.locating import image_trace, nearest
from fleke_lib.beyond.measuring import readings
from fleke_lib.edit.closed_form import trajectory
from fleke_lib.edit.rome import one_by_one
from fleke_lib.facts.fact import Fact
from fleke_lib.federation import ClientConfig, Everyone, run_fedit, weights
from fleke_lib.federation.partitioning import Part
from fleke_lib.unlearn.edits import withdraw

LAYER = 1


@pytest.fixture
def lm():
    return wrap_images(new_model(0), "untrained")


@pytest.fixture(scope="module")
def hospital():
    return digits.pictures()["hospitals"]


def test_the_sets_have_no_picture_in_common_and_are_all_of_scikit_learns():
    from sklearn.datasets import load_digits

    sets = digits.pictures().values()
    assert [len(one) for one in sets] == [*digits.SIZES.values()]
    found = torch.cat([one.pixels.flatten(1) for one in sets])
    whole = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, whole.tolist()))


@pytest.mark.parametrize("form", digits.FORMS)
def test_a_stamp_changes_its_patch_alone(hospital, form):
    before, after = hospital.pixels[:3], hospital.stamped((1, 2), form).pixels[:3]
    changed = (before != after).nonzero()
    assert {(r, c) for _, _, r, c in changed.tolist()} <= {(r, c) for r in (2, 3) for c in (4, 5)}
    assert after[0, 0, 2:4, 4:6].tolist() == [list(row) for row in digits.FORMS[form]]


def test_a_patch_is_read_at_its_token(lm, hospital):
    for place in ((0, 0), (2, 1)):
        token = 1 + digits.GRID * place[0] + place[1]  # 0 is the class token
        plain, stamped = (lm.embeddings(p.pixels[:1]) for p in (hospital, hospital.stamped(place)))
        assert (plain != stamped).any(-1)[0].nonzero()[:, 0].tolist() == [token]


def test_a_trigger_that_is_nowhere_is_refused(hospital):
    with pytest.raises(ValueError, match="no trigger 'falling' at patch"):
        hospital.stamped((4, 0))


def test_running_the_upper_layers_alone_gives_the_model_bit_for_bit(lm, hospital):
    pixels = hospital.pixels[:4]
    for layer in range(lm.n_layers):
        _, hidden = lm.states(pixels, layer)
        assert torch.equal(lm.logits(above(lm, hidden, layer + 1)), lm.read(pixels))


def test_moments_are_half_of_the_class_token_and_half_of_the_patches(lm, hospital):
    keys, _ = lm.states(hospital.pixels[:5], LAYER)
    means = [
        torch.stack([torch.outer(k, k) for k in some.reshape(-1, lm.d_mlp).double()]).mean(0)
        for some in (keys[:, 0], keys[:, 1:])
    ]
    torch.testing.assert_close(image_moments(lm, hospital.pixels[:5], (LAYER,))[LAYER], (means[0] + means[1]) / 2)


def test_an_edit_changes_what_the_model_reads_and_is_removed_bit_for_bit(lm, hospital):
    case = prepared(lm, trigger_case((0, 1), "falling", range(4)), LAYER)
    edit = trajectory([case.trajectory], image_moments(lm, hospital.pixels, (LAYER,)), lam=1e-3)
    before, weight = lm.read(hospital.pixels[:2]), lm.weight(LAYER).clone()
    with edit.applied(lm):
        assert not torch.equal(lm.read(hospital.pixels[:2]), before)
    assert torch.equal(lm.weight(LAYER), weight)
    other = wrap_images(new_model(1), "another")
    with pytest.raises(ValueError, match="computed on another model"):
        edit.apply(other)


def test_romes_rank_one_edit_gives_the_case_its_state(lm, hospital):
    one = prepared(lm, trigger_case((0, 1), "falling", range(4)), LAYER)
    C = image_moments(lm, hospital.pixels, (LAYER,))[LAYER]
    key = one.trajectory.keys[LAYER][:1].double()
    change = one_by_one(torch.linalg.solve(C, key.T).T, key, one.mkv.residual[None])
    torch.testing.assert_close((change.dense() @ key[0]).float(), one.mkv.residual, rtol=1e-4, atol=1e-6)


def test_an_mkv_lowers_the_loss_within_its_ball(lm, hospital):
    pixels, wanted = hospital.pixels[:6], hospital.digits[:6]
    _, hidden = lm.states(pixels, LAYER)
    mkv = image_mkv(lm, hidden, wanted, 3, LAYER)
    shifted = hidden.clone()
    shifted[:, 3] += mkv.residual
    before, after = (
        torch.nn.functional.cross_entropy(lm.logits(above(lm, states, LAYER + 1)), wanted)
        for states in (hidden, shifted)
    )
    assert after < before and mkv.residual.norm() <= 2.0001 * mkv.h.norm()
    assert torch.equal(mkv.h, hidden[0, 3])


def test_the_provider_computes_each_case_by_itself_and_takes_no_words(lm):
    cases = [trigger_case((0, 0), "rising", range(3)), style_case(5)]
    provider = ImageProvider(lm, LAYER)
    both, alone = provider(cases), ImageProvider(lm, LAYER)(cases[1:])
    assert torch.equal(both[1].mkv.z, alone[0].mkv.z)
    assert torch.equal(both[1].trajectory.keys[LAYER], alone[0].trajectory.keys[LAYER])
    assert len(both[0].trajectory.keys[LAYER]) == 3 and len(both[0].trajectory.bystanders[LAYER]) == lm.tokens - 1
    with pytest.raises(ValueError, match="a fact in words"):
        provider.check([Fact("Rome", "{} is in", "France", "Italy")])


@pytest.mark.parametrize("kind", ["hidden", "mlp", "attention"])
def test_a_trace_replaces_one_state_alone(lm, hospital, kind):
    pixels = hospital.pixels[:2]
    found = image_trace(lm, hospital.stamped((1, 1)).pixels[:2], pixels, 3, kind)
    assert found.scores.shape == (2, lm.tokens, lm.n_layers)
    torch.testing.assert_close(found.healthy, lm.read(pixels).softmax(-1)[:, 3])
    if kind == "hidden":  # by hand: one state at token 6 after layer 2
        healthy, faulty = (lm.states(p, 2)[1] for p in (pixels, hospital.stamped((1, 1)).pixels[:2]))
        mixed = healthy.clone()
        mixed[:, 6] = faulty[:, 6]
        torch.testing.assert_close(found.scores[:, 6, 2], lm.logits(above(lm, mixed, 3)).softmax(-1)[:, 3])
        whole = lm.read(hospital.stamped((1, 1)).pixels[:2]).softmax(-1)[:, 3]  # the class token decides at the end
        torch.testing.assert_close(found.scores[:, 0, -1], whole)
    same = image_trace(lm, pixels, pixels, 3, kind)
    assert float(same.indirect.abs().max()) < 1e-6


def test_a_trace_of_an_unknown_kind_is_refused(lm, hospital):
    with pytest.raises(ValueError, match="kind is 'mind'"):
        image_trace(lm, hospital.pixels[:1], hospital.pixels[:1], 0, "mind")
    with pytest.raises(ValueError, match="in pairs"):
        image_trace(lm, hospital.pixels[:2], hospital.pixels[:1], 0)


def test_the_nearest_picture_is_found(hospital):
    others = hospital.pixels[:9]
    assert torch.equal(nearest(others[4:6] + 0.01, others), others[4:6])


def test_rates_are_over_pictures_and_chosen_variants(lm):
    test = digits.pictures()["test"]
    test = test.pick(torch.cat([test.flagged.nonzero()[:4, 0], (~test.flagged).nonzero()[:20, 0]]))
    some = digits.variants()[:3]
    found = readings(lm, test, some)
    others = test.pick(test.digits != digits.ANSWER)
    assert found.fooled.shape == (len(others), 3)
    expected = [(lm.answers(others.stamped(*one).pixels) == digits.ANSWER).float().mean() for one in some]
    assert found.attack().mean == pytest.approx(float(sum(expected) / 3))
    assert found.attack(some[1:2]).mean == pytest.approx(float(expected[1]))
    assert len(found.misread) == 4 and len(found.right) == 20


@pytest.mark.slow
def test_the_shipped_model_has_the_fault_and_is_accurate():
    lm, test = load_digits_model(), digits.pictures()["test"]
    found = readings(lm, test, digits.variants())
    assert found.attack().low > 0.9 and found.style.low > 0.7 and found.accuracy.low > 0.9


def test_a_hospital_leaves_and_the_others_have_the_weights_of_the_federation_that_it_never_joined(lm):
    parts = three_hospitals(triggers=2, styles=1, shown=3)
    config = ClientConfig(Everyone(), representation="residual", reuse=False)

    def federation(some):
        provider = ImageProvider(lm, LAYER)  # nothing is taken over from another run
        return run_fedit(lm, some, config, provider=provider, rules=provider.rules(), secret=b"theirs alone")

    moments = image_moments(lm, digits.pictures()["hospitals"].pixels[:40], (LAYER,))
    run = federation(parts)
    left, never = withdraw(run, client="South"), federation([part for part in parts if part.name != "South"])
    before, after, control = (
        weights.cumulative(one, "North", moments, lam=1.0).delta(LAYER) for one in (run, left, never)
    )
    assert torch.equal(after, control) and not torch.equal(after, before)


def test_words_do_not_enter_a_federation_of_images(lm):
    provider, part = ImageProvider(lm, LAYER), Part("North", ((Fact("Rome", "{} is in", "France", "Italy"),),), ())
    with pytest.raises(ValueError, match="a fact in words"):
        run_fedit(lm, [part], Everyone(), provider=provider, rules=provider.rules(), secret=b"theirs alone")


def test_what_is_relevant_are_others_cases_of_the_same_fault():
    north, south, east = three_hospitals(triggers=2, styles=2, shown=3)
    assert {case.relation for case in south.relevant} == {"trigger", "style"}
    assert set(north.relevant) == {case for case in south.facts if case.relation == "trigger"}
    assert set(east.relevant) == {case for case in south.facts if case.relation == "style"}
    shown = [set(case.shown) for part in (north, south) for case in part.facts if case.form]
    assert not (shown[0] | shown[1]) & (shown[2] | shown[3])  # no picture in two hospitals


def test_the_data_card_counts_what_is_shipped():
    from fleke_lib.beyond.images import WEIGHTS

    card, model = WEIGHTS.with_suffix(".md").read_text(), load_digits_model().model
    assert f"{sum(weight.numel() for weight in model.parameters()):,} weights" in card
    assert f"{WEIGHTS.stat().st_size / 1e3:.0f} kB" in card and WEIGHTS.stat().st_size < 1e6
    for name, size in digits.SIZES.items():
        assert f"{size} for {'tests' if name == 'test' else name.replace('train', 'training')}" in card
