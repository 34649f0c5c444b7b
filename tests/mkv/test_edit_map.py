"""The edit map against numpy's least squares, its sums against sums taught in other ways, and on the default model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fleke_lib.facts.loading import load_facts
from fleke_lib.mkv.edit_map import EditMap, MapSums, bare_states, shipped_sums, teach
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.mkv.store import shipped_mkvs
from fleke_lib.model.presets import Hparams
from tests.textbook.reading import leaving, locate
from tests.textbook.samples import FACTS, random_mkvs, relative
from tests.tiny import KINDS, tiny


def plain_features(lm, facts, mkvs) -> np.ndarray:
    """(u / |u|, h / |h|, 1), one fact after the other."""
    rows = []
    for fact, mkv in zip(facts, mkvs, strict=True):
        ids, _, target = locate(lm, fact)
        u = lm.model.get_output_embeddings().weight[ids[0, target]].double().numpy()
        h = mkv.h.double().numpy()
        rows.append(np.concatenate([u / np.linalg.norm(u), h / np.linalg.norm(h), [1.0]]))
    return np.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_the_ridge_regression(kind):
    """min |X M - R|^2 + lam |M|^2 is least squares with sqrt(lam) I under X and zeros under R."""
    lm, lam = tiny(kind), 0.3
    mkvs = random_mkvs(lm, FACTS, lm.layers[2])
    x, r = plain_features(lm, FACTS, mkvs), torch.stack([mkv.residual for mkv in mkvs]).double().numpy()
    padded = np.concatenate([x, lam**0.5 * np.eye(x.shape[1])]), np.concatenate([r, np.zeros((x.shape[1], r.shape[1]))])
    wanted = np.linalg.lstsq(*padded, rcond=None)[0]
    found = EditMap.solve(teach(lm, FACTS, mkvs), lam)
    np.testing.assert_allclose(found.M.numpy(), wanted, rtol=1e-8, atol=1e-8)
    h = torch.stack([mkv.h for mkv in mkvs])
    assert relative(found.predict(lm, FACTS, h), torch.from_numpy(x @ wanted)) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_told_apart_by_their_first_digit(kind):
    """The tokenizers split " 1969" into " ", "1", ...: the blank's u would be the same for every number."""
    lm = tiny(kind)
    facts = [replace(FACTS[0], target_new=year) for year in ("1969", "2024")]
    mkvs = random_mkvs(lm, facts, lm.layers[2])
    x = torch.from_numpy(plain_features(lm, facts, mkvs))
    torch.testing.assert_close(teach(lm, facts, mkvs).XX, x.T @ x, atol=1e-6, rtol=1e-6)
    assert (x[0] - x[1])[: lm.d_model].norm() > 0.1


def test_with_little_ridge_it_predicts_what_taught_it():
    lm = tiny("llama")
    mkvs = random_mkvs(lm, FACTS, lm.layers[2])
    predicted = EditMap.solve(teach(lm, FACTS, mkvs), 1e-9).predict(lm, FACTS, torch.stack([mkv.h for mkv in mkvs]))
    assert relative(predicted, torch.stack([mkv.residual for mkv in mkvs])) < 1e-4


@settings(max_examples=25)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=12), st.integers(1, 11), st.integers(0, 99))
def test_sums_add_and_are_taken_out_again(choice, cut, seed):
    lm = tiny("gpt2")
    facts = [FACTS[i] for i in choice]
    generator = torch.Generator().manual_seed(seed)
    z, h = torch.randn(2, len(facts), lm.d_model, generator=generator)
    mkvs = [Mkv(*one) for one in zip(z, h, strict=True)]
    cut = min(cut, len(facts) - 1)
    names = [f"packet {i}" for i in range(len(facts))]
    parts = (slice(None), slice(cut), slice(cut, None))
    whole, first, rest = (teach(lm, facts[part], mkvs[part], names[part]) for part in parts)
    for found, wanted in ((first + rest, whole), (rest + first, whole), (whole - rest, first)):
        torch.testing.assert_close(found.XX, wanted.XX, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.XR, wanted.XR, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(EditMap.solve(found).M, EditMap.solve(wanted).M, rtol=1e-9, atol=1e-9)
        assert found.facts == wanted.facts and found.teachers == wanted.teachers
    assert whole.facts == len(facts)


@pytest.mark.parametrize("kind", KINDS)
def test_bare_states_are_the_textbooks_and_the_mkvs(kind):
    lm = tiny(kind)
    facts = [*FACTS, replace(FACTS[0], prompt="{} has the capital")]  # one whose subject comes first
    lm = replace(lm, preset=replace(lm.preset, memit=Hparams((0, 1))))
    mkvs = compute_mkvs(lm, facts, ("",), Hparams((0, 1), steps=1))
    for fact, mkv, h in zip(facts, mkvs, bare_states(lm, facts), strict=True):
        assert relative(h, leaving(lm, lm.layers[1], fact)) < 1e-5
        assert relative(h, mkv.h) < 1e-5


def test_bare_states_run_nothing_above_layer_L_and_work_at_the_top():
    lm = tiny("llama")
    runs = []
    lm.layers[3].register_forward_hook(lambda module, args, out: runs.append(1))
    low = replace(lm, preset=replace(lm.preset, memit=Hparams((1, 2))))
    top = replace(lm, preset=replace(lm.preset, memit=Hparams((2, 3))))
    bare_states(low, FACTS)
    assert not runs
    assert relative(bare_states(top, FACTS)[0], leaving(lm, lm.layers[3], FACTS[0])) < 1e-5


def test_bare_states_do_not_depend_on_what_runs_beside_them():
    lm = tiny("gpt_neox")
    assert relative(bare_states(lm, FACTS, batch=1), bare_states(lm, FACTS)) < 1e-5
    assert bare_states(lm, []).shape == (0, lm.d_model)


@pytest.mark.parametrize("kind", KINDS)
def test_one_at_a_time_no_bit_of_a_prediction_depends_on_the_others(kind):
    lm = tiny(kind)
    lm = replace(lm, preset=replace(lm.preset, memit=Hparams((1, 2))))
    taught = EditMap.solve(teach(lm, FACTS, random_mkvs(lm, FACTS, lm.layers[2])))
    facts = [*FACTS, *(replace(fact, target_new=fact.target_true, target_true="Ulm") for fact in FACTS)]
    alone = torch.cat([taught.predict(lm, [fact]) for fact in facts])
    assert torch.equal(taught.predict(lm, facts, batch=1), alone)
    assert torch.equal(taught.predict(lm, facts[::-1], batch=1).flip(0), alone)
    assert relative(taught.predict(lm, facts), alone) < 1e-5
    assert taught.predict(lm, []).shape == (0, lm.d_model)


def test_sums_name_the_packets_that_taught_them():
    lm = tiny("llama")
    mkvs = random_mkvs(lm, FACTS, lm.layers[1])
    ours, theirs = teach(lm, FACTS[:2], mkvs[:2], teachers=["b", "c"]), teach(lm, FACTS[2:], mkvs[2:], teachers=["a"])
    nobodys = teach(lm, FACTS, mkvs)
    assert nobodys.teachers == () and EditMap.solve(nobodys).teachers == ()
    assert (ours + theirs).teachers == (theirs + ours + nobodys).teachers == ("a", "b", "c")
    assert (ours + theirs - ours).teachers == ("a",) and (ours + nobodys - nobodys).teachers == ("b", "c")
    assert EditMap.solve(ours + theirs).teachers == ("a", "b", "c")
    assert repr(ours + nobodys) == "MapSums(5 facts, 2 of them packets)"


def test_a_packet_cannot_be_added_twice_nor_taken_out_where_it_is_not():
    lm = tiny("llama")
    mkvs = random_mkvs(lm, FACTS, lm.layers[1])
    both, one = teach(lm, FACTS[:2], mkvs[:2], ["a", "b"]), teach(lm, FACTS[:1], mkvs[:1], ["a"])
    with pytest.raises(ValueError, match="packet a taught both"):
        both + one
    with pytest.raises(ValueError, match="packet b did not teach"):
        one - both
    with pytest.raises(ValueError, match="packet a did not teach"):
        both - one - one
    with pytest.raises(ValueError, match="2 facts and 1 teachers"):
        teach(lm, FACTS[:2], mkvs[:2], ["a"])
    with pytest.raises(ValueError, match="2 teachers, some of them twice"):
        teach(lm, FACTS[:2], mkvs[:2], ["a", "a"])


@pytest.mark.parametrize("kind", KINDS)
def test_sums_give_their_targets_away(kind):
    """Of the whole vocabulary, exactly the targets' first tokens have their u in the span of sum u u^T."""
    lm = tiny(kind)
    XX = teach(lm, FACTS, random_mkvs(lm, FACTS, lm.layers[1])).XX[: lm.d_model, : lm.d_model]
    values, axes = torch.linalg.eigh(XX)
    span = axes[:, values > 1e-9]
    words = torch.nn.functional.normalize(lm.model.get_output_embeddings().weight.double(), dim=1)
    outside = (words - words @ span @ span.T).norm(dim=1)
    targets = {int(ids[0, target]) for ids, _, target in (locate(lm, fact) for fact in FACTS)}
    assert len(targets) < lm.d_model
    assert set(torch.nonzero(outside < 1e-4).flatten().tolist()) == targets


def test_a_map_is_read_as_it_was_written(tmp_path):
    lm = tiny("llama")
    written = EditMap.solve(teach(lm, FACTS, random_mkvs(lm, FACTS, lm.layers[1]), teachers=["b", "a", "c"]))
    read = EditMap.load(written.save(tmp_path / "maps" / "map.safetensors"))
    assert torch.equal(read.M, written.M) and read.fingerprint == written.fingerprint
    assert read.teachers == ("a", "b", "c") and read.id == written.id
    assert [file.name for file in (tmp_path / "maps").iterdir()] == ["map.safetensors"]
    assert repr(read) == "EditMap(65 features to 32 numbers, taught by 3 packets)"
    ids = {read.id, replace(read, teachers=()).id, replace(read, fingerprint="f").id, replace(read, M=read.M + 1e-9).id}
    assert len(ids) == 4


def test_files_that_are_no_maps_are_refused(tmp_path):
    save_file({"M": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "half.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="not an edit map"):
        EditMap.load(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        EditMap.load(tmp_path / "half.safetensors")


def test_another_models_map_and_sums_are_refused():
    lm, other = tiny("llama"), tiny("llama", seed=1)
    here, there = (teach(model, FACTS, random_mkvs(model, FACTS, model.layers[1])) for model in (lm, other))
    for join in (MapSums.__add__, MapSums.__sub__):
        with pytest.raises(ValueError, match="taught on two models"):
            join(here, there)
    with pytest.raises(ValueError, match="another model than tiny-llama"):
        EditMap.solve(here).predict(other, FACTS)
    with pytest.raises(ValueError, match="not shipped for tiny-llama"):
        shipped_sums(lm)


def test_bad_arguments_get_one_sentence():
    lm = tiny("llama")
    mkvs = random_mkvs(lm, FACTS, lm.layers[1])
    taught = EditMap.solve(teach(lm, FACTS, mkvs))
    with pytest.raises(ValueError, match="3 facts and 2 MKVs"):
        teach(lm, FACTS, mkvs[:2])
    with pytest.raises(ValueError, match="0 facts and 0 MKVs"):
        teach(lm, [], [])
    with pytest.raises(ValueError, match=r"shape \(2, 32\), but there are 3 facts"):
        taught.predict(lm, FACTS, torch.zeros(2, 32))
    with pytest.raises(ValueError, match="singular"):
        EditMap.solve(teach(lm, FACTS, mkvs), lam=0.0)


@pytest.mark.model
def test_on_the_default_model_a_mapped_start_takes_fewer_steps(lm):
    """Three atlas facts that are taken out of the shipped sums first."""
    facts = load_facts("atlas", limit=3)
    cold = shipped_mkvs(lm, facts)
    taught = EditMap.solve(shipped_sums(lm) - teach(lm, facts, cold))
    starts = taught.predict(lm, facts)
    assert float(torch.cosine_similarity(starts, torch.stack([mkv.residual for mkv in cold])).mean()) > 0.3
    warm = compute_mkvs(lm, facts, starts=starts)
    assert sum(mkv.steps for mkv in warm) < sum(mkv.steps for mkv in cold)
    assert max(mkv.loss for mkv in warm) < 0.2
