"""Facts named by hashing candidates, and facts of two federations linked by tags and by vectors."""

import hashlib
import json

import pytest
import torch

from fleke_lib.edit.trajectories import trajectories
from fleke_lib.federation.packets import Tags, pack
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.privacy.attacks.rates import ranks, rate
from fleke_lib.privacy.attacks.subject import CERTAIN
from fleke_lib.privacy.attacks.tags import Named, distances, equal_tags, likeness, named, weak_secret
from tests.privacy.attacks.cases import LAYERS, SUBJECTS, TAGS, TARGETS, TEMPLATES, published
from tests.tiny import tiny


def hashed(secret: bytes, *parts: str) -> str:
    """HMAC-SHA256 written out, as RFC 2104 has it."""
    key = secret.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + json.dumps(parts).encode()).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).hexdigest()


def other_federation(secret: bytes, seed: int = 9):
    """The same facts, in other contexts, with other MKVs of the same direction, under another secret."""
    _, facts, _, mkvs, _ = published()
    generator = torch.Generator().manual_seed(seed)
    again = [Mkv(one.h + one.residual + 0.1 * torch.randn(one.h.shape, generator=generator), one.h) for one in mkvs]
    paths = trajectories(tiny("llama"), facts, again, ("", "Yesterday they said that "), LAYERS)
    tags = Tags(secret)
    return [
        pack(path, mkv, "eve", 3, {"question": tags.question(fact), "answer": tags.answer(fact)})
        for path, mkv, fact in zip(paths, again, facts, strict=True)
    ]


def test_a_member_names_every_candidate_and_the_oracle_agrees():
    _, facts, _, _, packets = published()
    found = named(packets, TAGS, SUBJECTS, TEMPLATES, TARGETS)
    assert found == [Named(fact.subject, fact.prompt, fact.target_new) for fact in facts]
    for packet, fact in zip(packets, facts, strict=True):
        assert packet.question == hashed(TAGS.secret, "question", fact.subject, fact.prompt)
        assert packet.answer == hashed(TAGS.secret, "answer", fact.subject, fact.prompt, fact.target_new)


def test_what_is_not_among_the_candidates_is_not_named():
    _, facts, _, _, packets = published()
    found = named(packets, TAGS, SUBJECTS[1:], TEMPLATES[:2], TARGETS[1:])
    for guess, fact in zip(found, facts, strict=True):
        among = fact.subject != SUBJECTS[0] and fact.prompt in TEMPLATES[:2]
        assert (guess is not None) == among
        if among:
            assert guess.target == (fact.target_new if fact.target_new != TARGETS[0] else "")


def test_without_the_secret_no_candidate_fits():
    packets = published()[-1]
    for secret in (b"another", TAGS.secret + b"!", TAGS.secret.upper()):
        assert named(packets, Tags(secret), SUBJECTS, TEMPLATES, TARGETS) == [None] * len(packets)


def test_a_word_as_a_secret_is_found_with_one_fact_that_is_likely_among_the_packets():
    facts, packets = published()[1], other_federation(b"hospital")
    words = [b"clinic", b"hospital", b"university"]
    assert weak_secret(packets, words, facts[5:6]) == b"hospital"
    assert weak_secret(packets, words[::2], facts) is None
    assert weak_secret(published()[-1], words, facts) is None
    likely = [fact for fact in facts if fact.subject == "Japan"]
    elsewhere = [packet for packet, fact in zip(packets, facts, strict=True) if fact.subject != "Japan"]
    assert weak_secret(elsewhere, words, likely) is None


def test_a_tag_of_the_target_alone_betrays_a_weak_secret():
    _, facts, paths, mkvs, _ = published()
    weak = Tags(b"clinic")
    tags = {"question": weak.question(facts[0]), "answer": weak.answer(facts[0]), "target": weak.target(facts[0])}
    packet = pack(paths[0], mkvs[0], "ada", 0, tags)
    likely = next(fact for fact in facts[1:] if fact.target_new == facts[0].target_new)
    assert weak_secret([packet], [b"hospital", b"clinic"], [likely]) == b"clinic"


def test_tags_link_facts_of_two_federations_with_one_secret_only():
    packets = published()[-1]
    assert torch.equal(equal_tags(packets, other_federation(TAGS.secret)), torch.eye(len(packets), dtype=torch.bool))
    assert not equal_tags(packets, other_federation(b"another")).any()


def test_vectors_link_facts_of_two_federations_with_different_secrets_and_contexts():
    _, facts, _, _, packets = published()
    theirs = other_federation(b"another")
    truth = torch.arange(len(facts))
    found = rate(ranks(likeness(packets, theirs), truth), len(facts))
    assert found.share == 1
    assert rate(ranks(likeness(packets, theirs), truth.roll(1)), len(facts)).share == 0
    proved = distances(packets, theirs) <= CERTAIN
    same = [
        [a.prompt.partition("{}")[0] + a.subject == b.prompt.partition("{}")[0] + b.subject for b in facts]
        for a in facts
    ]
    assert proved.tolist() == same


def test_each_part_of_the_likeness_is_what_it_is_said_to_be():
    packets, theirs = published()[-1][:4], other_federation(b"another")[2:5]
    found = likeness(packets, theirs)
    for i, one in enumerate(packets):
        for j, other in enumerate(theirs):
            D, E = (p.axes[2].double().T @ p.axes[2].double() for p in (one, other))
            expected = float((D * E).sum() / (D.norm() * E.norm()))
            expected -= float((one.h.double() - other.h.double()).norm() / one.h.double().norm())
            expected += float(torch.cosine_similarity(one.residual.double(), other.residual.double(), dim=0))
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-9)


def test_vectors_of_different_base_models_are_not_compared():
    with pytest.raises(ValueError, match="several base models"):
        likeness(published()[-1], published("gpt2")[-1])
