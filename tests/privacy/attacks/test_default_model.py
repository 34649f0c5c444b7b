"""A few packets of the default model, made from shipped MKVs, read as a server would read them."""

import pytest
import torch

from fleke_lib.edit.trajectories import trajectories
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation.packets import pack
from fleke_lib.mkv.store import shipped_mkvs
from fleke_lib.privacy.attacks.chain import read
from fleke_lib.privacy.attacks.rates import Rate, ranks
from fleke_lib.privacy.attacks.subject import dictionary
from fleke_lib.privacy.attacks.target import blind, logit_lens, target_token

TAGS = {"question": "0" * 64, "answer": "1" * 64}


@pytest.mark.model
@pytest.mark.slow
def test_default_packets_are_read_from_end_to_end_among_sixty_subjects(lm):
    atlas = load_facts("atlas")
    facts = atlas[:111:8]  # 14 facts of several relations
    mkvs = shipped_mkvs(lm, facts)
    paths = trajectories(lm, facts, mkvs)
    packets = [pack(path, mkv, "ada", 0, TAGS) for path, mkv in zip(paths, mkvs, strict=True)]
    subjects = list(dict.fromkeys([*(fact.subject for fact in facts), *(fact.subject for fact in atlas[:111:2])]))
    templates = list(dict.fromkeys(fact.prompt for fact in atlas))
    readings = read(lm, packets, dictionary(lm, subjects, lm.preset.layers), templates, best=3)
    named = [reading.prompt.subject == fact.subject for reading, fact in zip(readings, facts, strict=True)]
    found = Rate(sum(named), len(named), 1 / len(subjects))
    assert found.interval[0] > 0.5 > found.chance
    said = [reading.target == target_token(lm, fact) for reading, fact in zip(readings, facts, strict=True)]
    assert Rate(sum(said), len(said), 0.1).interval[0] > 0.4
    z, h = (torch.stack([getattr(packet, name) for packet in packets]) for name in ("z", "h"))
    truth = torch.tensor([target_token(lm, fact) for fact in facts])
    without, with_layers = (ranks(scores, truth).median() for scores in (logit_lens(lm, z), blind(lm, z, h, 14)))
    assert with_layers < 50 < 500 < without  # of 49,152 tokens: the logit lens calls private what the layers read
