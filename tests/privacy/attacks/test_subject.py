"""Subjects read out of packets of tiny models, whose prompts are known."""

import pytest
import torch

from fleke_lib.model.activations import record
from fleke_lib.privacy.attacks.public import Views, views
from fleke_lib.privacy.attacks.rates import ranks, rate
from fleke_lib.privacy.attacks.subject import centroids, dictionary, read_prompts, seen, subject_scores
from tests.privacy.attacks.cases import LAYERS, SUBJECTS, TEMPLATES, published
from tests.tiny import KINDS, tiny

BEGINNINGS = tuple(template.partition("{}")[0] for template in TEMPLATES)


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_those_of_each_text_run_alone(kind):
    lm = tiny(kind)
    beginnings = ["The capital of ", "The capital of ", "", "He was born in "]
    subjects = ["São Paulo", "France", "William Shakespeare", "Ulm"]
    found = views(lm, beginnings, subjects, LAYERS)
    for i, (before, subject) in enumerate(zip(beginnings, subjects, strict=True)):
        ids = torch.tensor([lm.tokenizer(before + subject).input_ids])
        with record(inputs={"k": lm.projection(1)}, outputs={"h": lm.layers[2]}) as alone:
            lm.model(input_ids=ids)
        assert torch.allclose(found.h[i], alone["h"][0, -1], atol=1e-5)
        assert torch.allclose(found.key[i], alone["k"][0, -1], atol=1e-5)


def test_a_subject_that_would_be_the_first_token_is_read_behind_another_word():
    lm = tiny("gpt2")
    assert len(lm.tokenizer("a").input_ids) == 1
    found = views(lm, ["", "The ", "In "], ["a", "a", "a"], LAYERS)
    assert torch.allclose(found.h[0], found.h[1], atol=1e-5)
    assert not torch.allclose(found.h[0], found.h[2], atol=1e-2)


def test_the_subject_of_a_packet_is_named_first_behind_its_own_beginning_and_none_by_packets_of_others():
    lm, facts, _, _, packets = published()
    for template in TEMPLATES:
        members = [i for i, fact in enumerate(facts) if fact.prompt == template]
        known = dictionary(lm, SUBJECTS, LAYERS, [template.partition("{}")[0]])
        truth = torch.tensor([SUBJECTS.index(facts[i].subject) for i in members])
        scores = subject_scores(seen([packets[i] for i in members]), known)
        assert rate(ranks(scores, truth), len(SUBJECTS)).share == 1
        shuffled = truth.roll(1)  # the packets of other subjects: nothing to find
        assert rate(ranks(scores, shuffled), len(SUBJECTS)).share == 0


def test_scores_are_the_sums_of_two_centred_cosines_over_the_best_beginning():
    generator = torch.Generator().manual_seed(3)
    known = dictionary(tiny("llama"), SUBJECTS[:5], LAYERS, BEGINNINGS[:2])
    shown = Views(torch.randn(25, 32, generator=generator), torch.randn(25, 64, generator=generator))
    scores = subject_scores(shown, known)
    for i in (0, 24):
        for j in (0, 4):
            expected = 0.0
            for name in ("h", "key"):
                ours = getattr(shown, name).double()
                best = [
                    float(torch.cosine_similarity(ours[i] - ours.mean(0), rows[j] - rows.mean(0), dim=0))
                    for rows in (getattr(view, name).double() for view in known.views)
                ]
                expected += max(best)
            assert float(scores[i, j]) == pytest.approx(expected, abs=1e-9)


def test_a_prompt_that_is_tried_proves_itself_and_one_that_is_not_is_no_match():
    lm, facts, _, _, packets = published()
    centres = centroids(lm, BEGINNINGS, SUBJECTS[:4], LAYERS)
    alike = torch.zeros(len(packets), len(SUBJECTS))
    found = read_prompts(lm, packets, alike, SUBJECTS, BEGINNINGS, centres, best=len(SUBJECTS))
    assert all(guess.certain for guess in found)
    said = [(guess.beginning + guess.subject) for guess in found]
    assert said == [fact.prompt.partition("{}")[0] + fact.subject for fact in facts]
    without = [subject for subject in SUBJECTS if subject != "Japan"]
    found = read_prompts(lm, packets, alike[:, 1:], without, BEGINNINGS, centres, best=len(SUBJECTS))
    assert [guess.certain for guess in found] == [fact.subject != "Japan" for fact in facts]


def test_only_the_best_subjects_behind_the_nearest_beginnings_are_tried():
    lm, facts, _, _, packets = published()
    centres = centroids(lm, BEGINNINGS, SUBJECTS[:4], LAYERS)
    truth = torch.tensor([SUBJECTS.index(fact.subject) for fact in facts])
    right = torch.nn.functional.one_hot(truth, len(SUBJECTS)).float()
    found = read_prompts(lm, packets, right, SUBJECTS, BEGINNINGS, centres, best=1)
    assert all(guess.certain for guess in found)
    wrong = read_prompts(lm, packets, right.roll(1, 1), SUBJECTS, BEGINNINGS, centres, best=1)
    assert not any(guess.certain for guess in wrong)


def test_vectors_that_hide_their_fact_bring_the_rate_to_chance():
    """What an encrypted packet is to whoever has no key: numbers that do not depend on the fact."""
    generator = torch.Generator().manual_seed(11)
    known = dictionary(tiny("llama"), SUBJECTS, LAYERS, BEGINNINGS)
    hidden = Views(torch.randn(600, 32, generator=generator), torch.randn(600, 64, generator=generator))
    found = rate(ranks(subject_scores(hidden, known), torch.arange(600) % len(SUBJECTS)), len(SUBJECTS))
    assert found.interval[0] < found.chance < found.interval[1]
