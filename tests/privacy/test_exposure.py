"""Exposure: rates of all attacks against loops over packets, and against facts that are not there."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.privacy.attacks.chain import read
from fleke_lib.privacy.attacks.relation import template_scores
from fleke_lib.privacy.attacks.subject import dictionary, seen, subject_scores
from fleke_lib.privacy.attacks.target import logit_lens, target_token, with_template
from fleke_lib.privacy.exposure import packets_exposed, sums_exposed
from fleke_lib.ridge.sums import Sums
from tests.privacy.attacks.cases import LAYERS, SUBJECTS, TEMPLATES, published


def test_rates_are_those_of_a_loop_over_the_packets():
    lm, facts, *_, packets = published()
    known = dictionary(lm, SUBJECTS, LAYERS)
    found = packets_exposed(lm, packets, facts, known, TEMPLATES)
    z = torch.stack([packet.z for packet in packets])
    scores = {
        "target, by the logit lens": logit_lens(lm, z),
        "target, template known": with_template(lm, z, LAYERS[-1], [fact.prompt for fact in facts]),
        "template": template_scores(lm, packets, TEMPLATES),
        "subject": subject_scores(seen(packets), known),
    }
    tokens = [target_token(lm, fact) for fact in facts]
    truth = {
        "template": [TEMPLATES.index(fact.prompt) for fact in facts],
        "subject": [SUBJECTS.index(fact.subject) for fact in facts],
    }
    for attack, rows in scores.items():
        right = truth.get(attack, tokens)
        hits = sum(int(row.argmax()) == one for row, one in zip(rows, right, strict=True))
        assert (found[attack].hits, found[attack].n) == (hits, len(packets)), attack
    readings = read(lm, packets, known, TEMPLATES, best=5)
    proved = whole = 0
    for reading, fact, token in zip(readings, facts, tokens, strict=True):
        right = fact.question.startswith(reading.prompt.beginning + reading.prompt.subject)
        proved += reading.prompt.certain and right
        whole += right and reading.template == fact.prompt and reading.target == token
    assert found["subject and beginning, proved"].hits == proved > 0.8 * len(packets)
    assert found["subject, template and target, one after the other"].hits == whole
    assert found["subject"].interval[0] > found["subject"].chance == 1 / len(SUBJECTS)


def test_a_false_proof_is_no_hit():
    """The facts of two packets are exchanged: what is proved is then another text than the fact's."""
    lm, facts, *_, packets = published()
    known = dictionary(lm, SUBJECTS, LAYERS)
    right = packets_exposed(lm, packets, facts, known, TEMPLATES)["subject and beginning, proved"].hits
    mixed = [facts[1], facts[0], *facts[2:]]
    assert packets_exposed(lm, packets, mixed, known, TEMPLATES)["subject and beginning, proved"].hits == right - 2


def test_sums_name_their_own_subjects_and_no_others():
    """Sums of four candidates' own keys, with random residuals; facts with the same subjects count once."""
    lm, facts, *_ = published()
    moment = torch.eye(lm.d_mlp, dtype=torch.float64) + 0.1
    known = dictionary(lm, SUBJECTS, LAYERS)
    keys = known.keys[1, :4].double()
    r = torch.randn(4, lm.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = Sums(keys.T @ keys, r.T @ keys)
    change = total.solve(moment, 1.0)
    inside = [fact for fact in facts if fact.subject in SUBJECTS[:4]]
    own = sums_exposed(change, total, inside, known, moment)
    assert len(inside) == 12 and set(own) == {"dW", "T", "S"}
    assert all((rate.hits, rate.n, rate.chance) == (4, 4, 4 / len(SUBJECTS)) for rate in own.values())
    others = sums_exposed(change, total, [fact for fact in facts if fact not in inside][:4], known, moment)
    assert all(rate.hits == 0 for rate in others.values())


def test_a_rate_needs_the_truth_among_the_candidates():
    lm, facts, *_, packets = published()
    known = dictionary(lm, SUBJECTS[:3], LAYERS)
    with pytest.raises(ValueError, match=r"the subject .* is no candidate"):
        packets_exposed(lm, packets, facts, known, TEMPLATES)
    known = dictionary(lm, SUBJECTS, LAYERS)
    with pytest.raises(ValueError, match=r"the template .* is no candidate"):
        packets_exposed(lm, packets, facts, known, TEMPLATES[:1])
    with pytest.raises(ValueError, match=r"33 packets are given and 32 facts"):
        packets_exposed(lm, packets, facts[1:], known, TEMPLATES)
    with pytest.raises(ValueError, match="no candidate"):
        sums_exposed(torch.zeros(1), None, [replace(facts[0], subject="Nobody")], known, torch.zeros(1))
