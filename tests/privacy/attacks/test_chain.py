"""Packets of a tiny model read from end to end, against what was written into them."""

import torch

from fleke_lib.privacy.attacks.chain import read
from fleke_lib.privacy.attacks.subject import dictionary
from tests.privacy.attacks.cases import LAYERS, SUBJECTS, TEMPLATES, continued_slowly, published


def test_packets_are_read_as_they_were_written_and_the_target_is_what_the_model_says_with_z():
    lm, facts, _, _, packets = published()
    readings = read(lm, packets, dictionary(lm, SUBJECTS, LAYERS), TEMPLATES, best=len(SUBJECTS), public=4)
    assert [reading.template for reading in readings] == [fact.prompt for fact in facts]
    assert [reading.prompt.subject for reading in readings] == [fact.subject for fact in facts]
    assert all(reading.prompt.certain for reading in readings)
    for reading, fact, packet in list(zip(readings, facts, packets, strict=True))[::4]:
        said = continued_slowly(lm, fact.question, fact.subject, LAYERS[-1], packet.z)
        assert reading.target == int(said.argmax())


def test_a_template_that_no_packet_has_is_read_into_none_whose_beginning_is_proved():
    lm, _, _, _, packets = published()
    strange = ("The symbol for {} is", *TEMPLATES)
    readings = read(lm, packets, dictionary(lm, SUBJECTS, LAYERS), strange, best=len(SUBJECTS), tried=4, public=4)
    assert all(reading.prompt.certain and reading.template != strange[0] for reading in readings)


def test_a_subject_outside_the_list_is_read_wrongly_and_known_to_be_unproved():
    lm, facts, _, _, packets = published()
    known = dictionary(lm, SUBJECTS[1:], LAYERS)
    readings = read(lm, packets, known, TEMPLATES, best=len(SUBJECTS), public=4)
    assert [reading.prompt.certain for reading in readings] == [fact.subject != SUBJECTS[0] for fact in facts]
    assert torch.tensor([reading.target for reading in readings]).ge(0).all()
