"""Vectors on disk: computed once, found again by another process, never taken for those of another model."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.edit.trajectories import trajectories
from fleke_lib.federation import Everyone, partition, run_fedit, weights
from fleke_lib.federation.provider import StoredProvider, VectorProvider
from fleke_lib.federation.warm_start import COLD, Start
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.model.presets import Hparams
from fleke_lib.unlearn.edits.withdrawal import withdraw
from tests.federation.small import facts, scenario
from tests.tiny import tiny


def test_vectors_are_computed_once_and_found_again_after_an_interruption(tmp_path):
    lm, _, _ = scenario()
    wanted, said = facts()[:5], []

    def interrupt(line: str) -> None:
        if "made" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StoredProvider(lm, tmp_path, together=2, progress=interrupt)(wanted)
    ((file, moment),) = [(path, path.stat().st_mtime_ns) for path in tmp_path.iterdir()]
    again = StoredProvider(lm, tmp_path, together=2, progress=said.append)
    again(wanted)
    assert "2 of 5 are here" in said[0] and file.stat().st_mtime_ns == moment
    assert len(list(tmp_path.iterdir())) == 3 and again.seconds(wanted) > again.seconds(wanted[:2]) > 0
    said.clear()
    again([*wanted[3:], replace(wanted[0], paraphrases=("another prompt that is only asked",))])
    StoredProvider(lm, tmp_path, progress=said.append)(wanted)
    assert said == []

    mkvs = compute_mkvs(lm, wanted[2:4], batch=1)
    paths = trajectories(lm, wanted[2:4], mkvs, batch=1)
    for prepared, mkv, path in zip(again(wanted[2:4]), mkvs, paths, strict=True):
        assert torch.equal(prepared.mkv.z, mkv.z) and prepared.mkv.steps == mkv.steps and prepared.mkv.loss == mkv.loss
        assert prepared.trajectory.fingerprint == path.fingerprint and prepared.trajectory.layers == path.layers
        assert torch.equal(prepared.trajectory.residual, path.residual) and len(path.bases) == len(path.layers)
        for layer in path.layers:
            assert torch.equal(prepared.trajectory.bases[layer], path.bases[layer])
            assert torch.equal(prepared.trajectory.keys[layer], path.keys[layer])
            assert torch.equal(prepared.trajectory.shares[layer], path.shares[layer])
            stored, others = prepared.trajectory.bystanders[layer], path.bystanders[layer]
            assert torch.equal(stored[: len(others)], others) and not stored[len(others) :].any()


def test_of_a_model_with_norms_behind_its_mlps_no_base_keys_are_kept_or_read(tmp_path):
    lm = tiny("gemma3_text")
    preset = replace(lm.preset, memit=Hparams((1, 2), steps=1), contexts=("",))
    lm, wanted, said = replace(lm, preset=preset), facts()[:2], []
    (mkv, path), *_ = [(one.mkv, one.trajectory) for one in StoredProvider(lm, tmp_path)(wanted)]
    again = StoredProvider(lm, tmp_path, progress=said.append)(wanted)[0]
    assert said == [] and path.bases == again.trajectory.bases == {}
    assert torch.equal(again.trajectory.residual, mkv.z - mkv.h)
    assert all(torch.equal(again.trajectory.shares[i], path.shares[i]) for i in (1, 2))


@pytest.mark.parametrize("what", ["weights", "contexts", "steps", "batch"])
def test_vectors_of_another_model_or_preset_are_not_taken(what, tmp_path):
    lm, _, _ = scenario()
    fact, said = facts()[:1], []
    StoredProvider(lm, tmp_path)(fact)
    others = {
        "contexts": {"preset": replace(lm.preset, contexts=("", "Another day. "))},
        "steps": {"preset": replace(lm.preset, memit=replace(lm.preset.memit, steps=2))},
    }
    other, weight = replace(lm, **others.get(what, {})), lm.layers[0].input_layernorm.weight.data
    before = weight.clone()
    if what == "weights":
        weight.mul_(1.5)
    try:
        StoredProvider(other, tmp_path, batch=4 if what == "batch" else 1, progress=said.append)(fact)
        assert "0 of 1 are here" in said[0]
    finally:
        weight.copy_(before)


def test_a_model_that_has_changed_since_is_refused(tmp_path):
    lm, provider, moments = scenario()
    stored = StoredProvider(lm, tmp_path)
    stored(facts()[:1])
    edit = weights.trajectory([prepared.trajectory for prepared in provider(facts()[:3])], moments, 1.0)
    with edit.applied(lm):
        stored(facts()[:1])  # on disk already
        with pytest.raises(ValueError, match="have changed since this provider was made"):
            stored(facts()[1:2])
    stored(facts()[1:2])


def test_warm_starts_are_computed_in_memory(tmp_path):
    lm, _, _ = scenario()
    trio, start = facts()[:3], Start(0.3 * torch.ones(lm.d_model))
    stored = StoredProvider(lm, tmp_path)
    found = stored(trio, [start, COLD, start])
    in_memory = VectorProvider(lm, lambda missing: compute_mkvs(lm, missing))(trio, [start, COLD, start])
    for one, other in zip(found, in_memory, strict=True):
        assert torch.equal(one.mkv.z, other.mkv.z)
    assert list(stored._places) == [stored._name(trio[1])]


def test_a_broken_file_costs_only_its_own_facts(tmp_path):
    lm, _, _ = scenario()
    wanted, said = facts()[:2], []
    whole = StoredProvider(lm, tmp_path, together=1)(wanted)
    file = sorted(tmp_path.iterdir())[0]
    file.write_bytes(file.read_bytes()[:200])
    with pytest.warns(UserWarning, match=f"{file.name} is left out"):
        again = StoredProvider(lm, tmp_path, progress=said.append)
    assert all(torch.equal(one.mkv.z, other.mkv.z) for one, other in zip(whole, again(wanted), strict=True))
    assert "1 of 2 are here" in said[0]
    StoredProvider(lm, tmp_path)


@pytest.mark.slow
def test_a_federation_and_a_withdrawal_are_those_of_the_provider_in_memory(tmp_path):
    lm, _, moments = scenario()
    parts = partition(facts(), 3, slots=2)
    in_memory = VectorProvider(lm, lambda missing: compute_mkvs(lm, missing))
    stored, said = StoredProvider(lm, tmp_path), []
    stored.progress = said.append
    runs = [
        run_fedit(lm, parts, Everyone(), provider=provider, secret=b"the clients' own")
        for provider in (in_memory, stored)
    ]
    files = list(tmp_path.iterdir())
    said.clear()
    after = [withdraw(run, client=parts[2].name) for run in runs]
    assert said == [] and list(tmp_path.iterdir()) == files
    for one, other in (runs, after):
        edits = [weights.cumulative(run, parts[0].name, moments) for run in (one, other)]
        for layer in edits[0].layers:
            torch.testing.assert_close(edits[0].delta(layer), edits[1].delta(layer), rtol=1e-6, atol=1e-9)


def test_without_facts_what_is_on_disk_is_not_read(tmp_path):
    lm, _, _ = scenario()
    wanted, said = facts()[:3], []
    stored = StoredProvider(lm, tmp_path, progress=said.append)
    before = stored(wanted)
    said.clear()
    after = stored.without(wanted[1:2])(wanted)
    assert "2 of 3 are here" in said[0]
    assert all(torch.equal(one.mkv.z, other.mkv.z) for one, other in zip(before, after, strict=True))


def test_what_is_forgotten_is_in_no_file_of_the_folder(tmp_path, monkeypatch):
    """Rows of other presets too; those who stay keep their bits, and the fact can be computed again."""
    lm, _, _ = scenario()
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path / "cache"))
    other = replace(lm, preset=replace(lm.preset, memit=replace(lm.preset.memit, steps=2)))
    wanted, folder = facts()[:3], tmp_path / "made"
    stored, shorter = StoredProvider(lm, folder, together=2), StoredProvider(other, folder)
    before, short = stored(wanted), shorter(wanted[:1])
    secrets = [one.mkv.z.numpy().tobytes() for one in (before[0], *short)]
    assert sum(secret in file.read_bytes() for file in folder.iterdir() for secret in secrets) == 2
    found = stored.forget(wanted[:1])
    assert sorted(found.rows.values()) == [1, 1] and not found.stays and len(list(folder.iterdir())) == 2
    assert not any(secret in file.read_bytes() for file in folder.iterdir() for secret in secrets)
    said = []
    again = StoredProvider(lm, folder, progress=said.append)
    assert all(torch.equal(a.mkv.z, b.mkv.z) for a, b in zip(again(wanted[1:]), before[1:], strict=True)) and not said
    assert torch.equal(stored(wanted)[0].mkv.z, before[0].mkv.z) and stored.forget(wanted[:1]).rows
