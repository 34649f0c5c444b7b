"""Tuning on a tiny model that has learned some facts: evidence, trials, the best of each, and the preset."""

from dataclasses import replace

import pytest
import torch

import fleke_lib as fleke
from fleke_lib.evaluation import evaluate
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.digest import weights_digest
from fleke_lib.model.preset_files import FILE, read_preset, write_preset
from fleke_lib.model.presets import NormalisedGradient, generic_preset
from fleke_lib.tune import choose
from fleke_lib.tune.__main__ import main
from fleke_lib.tune.choosing import CLAMPS, LAMBDAS, LEAST, _Search, candidates
from tests.learned import learned
from tests.tiny import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def facts():
    return fleke.load_facts("atlas", 14)


@pytest.fixture(scope="module")
def folder(facts, tmp_path_factory):
    """A tiny GPT-2 that knows these facts, saved; the cache is its own."""
    place = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEKE_CACHE", str(place / "cache"))
        yield learned("gpt2", facts, place / "tiny")


@pytest.fixture(scope="module")
def tuning(folder, facts):
    lines = []
    lm = fleke.load_model(folder)
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    found = choose(lm, facts, traced=4, tried=8, told=lines.append)
    assert all(torch.equal(weight, before[name]) for name, weight in lm.model.state_dict().items())
    assert len(lines) == len(found.trials) + 3
    return found


def test_each_choice_is_the_best_of_its_trials(tuning, folder):
    choices = {}
    for trial in tuning.trials:
        choices.setdefault(trial.choice, []).append(trial)
    best = {choice: max(trials, key=lambda one: one.found.score).value for choice, trials in choices.items()}
    preset = tuning.preset
    assert best == {
        "layers": preset.layers,
        "clamp": preset.memit.clamp,
        "lambda": preset.memit.lam,
        "lambda of the closed form": preset.trajectory_lam,
    }
    untraced = generic_preset("tiny", fleke.load_model(folder).n_layers).layers[-1]
    ends = tuning.critical or (untraced,)  # where no layer stands out
    assert [one.value for one in choices["layers"]] == candidates(ends)
    assert tuple(one.value for one in choices["clamp"]) == CLAMPS
    assert tuple(one.value for one in choices["lambda"]) == LAMBDAS
    assert tuning.seconds > 0 and tuning.known >= LEAST


def test_the_score_of_a_trial_is_that_of_the_edit_with_its_value(tuning, folder, facts):
    lm = fleke.load_model(folder)
    trial = next(one for one in tuning.trials if one.choice == "lambda")
    hparams = replace(tuning.preset.memit, lam=trial.value)
    asked = list(trial.found.facts)
    edit = fleke.edit.memit(lm, asked, fleke.compute_mkvs(lm, asked, hparams=hparams, batch=1), hparams=hparams)
    with edit.applied(lm):
        assert evaluate(lm, asked).score == pytest.approx(trial.found.score, abs=1e-6)


def test_the_preset_is_for_these_weights_and_has_every_method(tuning, folder):
    lm = fleke.load_model(folder)
    preset = tuning.preset
    assert preset.weights == (weights_digest(lm),) and preset.model == "tiny"
    assert "python -m fleke_lib.tune" in preset.source
    assert preset.pmet.layers == preset.alphaedit.layers == preset.layers
    assert preset.rome.layers == preset.layers[-1:] and preset.finetune.layer == preset.layers[-1]
    assert preset.contexts and preset.contexts[0] == ""


def test_fast_mkvs_are_those_of_the_trials_and_of_the_preset(folder, facts, tmp_path):
    lm = fleke.load_model(folder)
    tuning = choose(lm, facts, traced=4, tried=8, fast=True)
    preset, trial = tuning.preset, tuning.trials[0]
    for hparams in (preset.memit, preset.pmet):
        assert hparams.optimiser == NormalisedGradient() and hparams.steps == 9
    assert preset.source.endswith("python -m fleke_lib.tune --fast")
    assert read_preset(write_preset(tmp_path / FILE, preset)) == preset
    hparams = replace(lm.preset.memit.fast(), layers=trial.value, lam=LAMBDAS[0], clamp=CLAMPS[0])
    asked = list(trial.found.facts)
    edit = fleke.edit.memit(lm, asked, fleke.compute_mkvs(lm, asked, hparams=hparams, batch=1), hparams=hparams)
    with edit.applied(lm):
        assert evaluate(lm, asked).score == pytest.approx(trial.found.score, abs=1e-6)


@pytest.mark.parametrize(("length", "tried"), [(0.1, CLAMPS[:1]), (0.2, CLAMPS)])
def test_a_clamp_far_above_all_deltas_is_not_tried(length, tried):
    lm, lines = tiny("gpt2"), []
    search = _Search(lm, [], lines.append)
    search._mkvs = lambda h: [Mkv(torch.tensor([1 + share, 0.0]), torch.tensor([1.0, 0.0])) for share in (0.01, length)]
    assert search.clamps(lm.preset.memit) == tried
    assert lines == ["one clamp is tried: no MKV is farther from h than 0.10 of its length"][: length == 0.1]


def test_candidates_end_in_the_critical_layers_and_stay_in_the_model():
    assert candidates((9, 10, 11, 12)) == [
        (7, 8, 9, 10, 11),
        (1, 3, 5, 7, 9, 11),
        (8, 9, 10, 11, 12),
        (2, 4, 6, 8, 10, 12),
        (5, 6, 7, 8, 9),
        (1, 3, 5, 7, 9),
    ]
    assert candidates((1,)) == [(0, 1), (1,)]


def test_the_command_writes_what_load_model_finds(tuning, folder, capsys):
    write_preset(folder / FILE, tuning.preset)  # of an earlier call, which is no built-in one
    assert main([str(folder), "--limit", "14", "--traced", "4", "--tried", "8"]) == 0
    said = capsys.readouterr().out
    assert "score" in said and "s in all" in said and str(folder / FILE) in said and "built-in" not in said
    assert fleke.load_model(folder).preset == read_preset(folder / FILE)
    (folder / FILE).unlink()


def test_a_model_that_knows_too_little_is_told(tmp_path, capsys):
    lm = tiny("gpt2")
    with pytest.raises(ValueError, match=f"and a choice needs {LEAST}: give more facts"):
        choose(lm, fleke.load_facts("atlas", 20))
    assert main(["./no-such-model"]) == 2
    assert "no-such-model" in capsys.readouterr().err
