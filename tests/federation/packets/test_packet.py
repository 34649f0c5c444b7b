"""Packets: what they keep of a trajectory, what they do not reveal, and that their encoding is canonical."""

import hashlib
import json
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch.testing import assert_close

from fleke_lib.edit.trajectories import BYSTANDER, Trajectory, trajectories
from fleke_lib.facts.contexts import context_weights
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import VECTORS, Packet, pack
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.ridge.sums import sums
from tests.federation.sample_packets import CONTEXTS, D_MLP, D_MODEL, LAYERS, fact_of, mkv_of, packet_of, path_of
from tests.textbook.samples import relative
from tests.tiny import tiny

compressions = st.builds(Compression, st.integers(0, 5), st.sampled_from(["float32", "float16", "int8"]))
seeds = st.integers(0, 10_000)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(seeds, compressions, texts, st.integers(0, 2**40))
def test_a_packet_is_read_as_it_was_written(seed, compression, client, slot):
    packet = packet_of(seed, client, slot, compression)
    again = Packet.read(packet.data)
    assert again.id == packet.id == hashlib.sha256(packet.data).hexdigest()
    for name in ("data", "fingerprint", "client", "slot", "question", "answer", "target", "layers"):
        assert getattr(again, name) == getattr(packet, name)
    assert (again.client, again.slot, again.layers) == (client, slot, LAYERS)
    assert torch.equal(again.z, packet.z) and torch.equal(again.h, packet.h)
    for name in ("shares", "means", "rests"):
        assert all(torch.equal(getattr(again, name)[layer], getattr(packet, name)[layer]) for layer in LAYERS)
    assert packet_of(seed, client, slot, compression).data == packet.data


@given(seeds, compressions)
def test_the_parts_add_up(seed, compression):
    packet = packet_of(seed, compression=compression)
    sizes = packet.sizes()
    assert sum(sizes.values()) == len(packet.data)
    numbers = {"float32": 4, "float16": 2, "int8": 1}[compression.precision]
    scale = 4 if compression.precision == "int8" else 0
    assert sizes["z"] == sizes["h"] == max(2, numbers) * D_MODEL
    assert sizes["rests"] == len(LAYERS) * compression.axes * (numbers * D_MLP + scale)


@given(seeds, st.integers(1, 6), st.integers(0, 4))
def test_with_all_axes_s_and_t_are_those_of_the_trajectory(seed, contexts, words):
    path = path_of(seed, contexts, words)
    packet = packed(path, mkv_of(seed), Compression(contexts + words - 1, "float32"))
    for layer in LAYERS:
        own, sent = sums([path], layer), sums([packet], layer)
        assert relative(sent.S, own.S) < 1e-6  # each number is rounded to 24 bits
        assert relative(sent.T, own.T) < 1e-6


@given(seeds, st.integers(1, 6), st.integers(0, 4), st.integers(0, 6))
def test_with_fewer_axes_s_is_as_near_as_that_rank_allows(seed, contexts, words, axes):
    """Eckart-Young: what is missing is the rest of the singular values of what is not the mean key."""
    path = path_of(seed, contexts, words)
    packet = packed(path, mkv_of(seed), Compression(axes, "float32"))
    for layer in LAYERS:
        keys, w, others = path.keys[layer].double(), context_weights(contexts).double(), path.bystanders[layer].double()
        spread = torch.einsum("c,cd,ce->de", w, keys - w @ keys, keys - w @ keys)
        values = torch.linalg.eigvalsh(spread + BYSTANDER * others.T @ others).clamp(min=0).sqrt().flip(0)
        missing = torch.linalg.matrix_norm(sums([path], layer).S - sums([packet], layer).S)
        assert_close(missing, values[axes:].pow(4).sum().sqrt(), atol=1e-5, rtol=1e-5)


def test_axes_that_a_fact_does_not_have_are_zeros():
    rests = packet_of(0, compression=Compression(CONTEXTS + 2)).rests[3]
    assert rests.shape == (CONTEXTS + 2, D_MLP)
    assert rests[: CONTEXTS - 1].norm(dim=1).min() > 0.1
    assert rests[CONTEXTS - 1 :].abs().max() < 1e-6


@given(seeds)
def test_eight_bits_are_off_by_half_a_step_at_most(seed):
    exact, rounded = (
        packet_of(seed, compression=Compression(2, "float32")),
        packet_of(seed, compression=Compression(2, "int8")),
    )
    for name in VECTORS:
        pairs = [(getattr(exact, name), getattr(rounded, name))]
        if name not in ("z", "h"):
            pairs = [(pairs[0][0][layer], pairs[0][1][layer]) for layer in LAYERS]
        for x, y in pairs:
            step = x.abs().amax(-1, keepdim=True) / 127
            assert ((x - y).abs() <= 0.5001 * step).all()


def test_sixteen_bits_are_off_by_a_two_thousandth_at_most():
    exact, rounded = (
        packet_of(1, compression=Compression(2, "float32")),
        packet_of(1, compression=Compression(2, "float16")),
    )
    assert_close(rounded.z, exact.z, rtol=2**-11, atol=2**-24)
    assert_close(rounded.rows(3), exact.rows(3), rtol=2**-11, atol=2**-24)


def test_there_is_one_way_to_write_a_packet():
    packet = packet_of(0)
    length = int.from_bytes(packet.data[:8], "little")
    head, body = json.loads(packet.data[8 : 8 + length]), packet.data[8 + length :]
    about = json.loads(head["__metadata__"]["about"])
    backwards = dict(reversed(head.items()))
    unsorted = json.dumps(dict(reversed(about.items())))
    for other in (
        joined(json.dumps(head), body),  # blanks after commas and colons
        joined(json.dumps(backwards, separators=(",", ":")), body),
        joined(packet.data[8 : 8 + length].decode() + " " * 8, body),
        save(load(packet.data), {"about": unsorted}),
        save(load(packet.data), {"about": json.dumps(about, sort_keys=True, separators=(",", ":"))}),
        save(load(packet.data), {"about": json.dumps(about, sort_keys=True), "more": "text"}),
    ):
        assert other != packet.data
        with pytest.raises(ValueError, match=r"not written as `pack` writes|not a packet"):
            Packet.read(other)
    assert save(load(packet.data), {"about": json.dumps(about, sort_keys=True)}) == packet.data


def joined(head: str, body: bytes) -> bytes:
    return len(head.encode()).to_bytes(8, "little") + head.encode() + body


def test_a_real_packet_holds_neither_text_nor_token_ids():
    lm = tiny("llama")
    fact = Fact("Danielle Darrieux", "The mother tongue of {} is", "English", "French", id="case 73")
    h = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))
    (path,) = trajectories(lm, [fact], [Mkv(h + 0.1, h)], contexts=("", "Therefore, "), layers=(1, 2))
    tags = Tags(b"a secret")
    named = {"question": tags.question(fact), "answer": tags.answer(fact), "target": tags.target(fact)}
    data = pack(path, Mkv(h + 0.1, h), "client 1", 0, named).data
    text = f"{fact.subject} {fact.prompt} {fact.target_new} {fact.target_true} case 73 Therefore"
    words = [word for word in text.split() if len(word) > 3]
    assert not [word for word in words if word.lower().encode() in data.lower()]
    for asked in (fact.subject, fact.target_new, fact.question):
        ids = lm.tokenizer(asked, add_special_tokens=False)["input_ids"]
        assert json.dumps(ids)[1:-1].encode() not in data
        for kind in (torch.int16, torch.int32, torch.int64):
            assert torch.tensor(ids).to(kind).numpy().tobytes() not in data
    assert b"a secret" not in data


@given(texts, texts)
def test_tags_need_the_secret(secret, other):
    fact = fact_of(1)
    one, two = Tags(secret.encode()), Tags(other.encode())
    assert (one.answer(fact) == two.answer(fact)) == (secret == other)
    assert len({one.question(fact), one.answer(fact), one.target(fact)}) == 3
    if len(secret) > 4:
        assert secret not in repr(one)


def test_tags_say_the_same_question_the_same_answer_and_the_same_target():
    tags = Tags(b"secret")
    fact = Fact("Ada", "{} lives in", "Rome", "London")
    otherwise, elsewhere = Fact("Ada", "{} lives in", "Oslo", "London"), Fact("Bob", "{} works in", "Rome", "London")
    assert tags.question(fact) == tags.question(otherwise) != tags.question(elsewhere)
    assert tags.answer(fact) != tags.answer(otherwise)
    assert tags.target(fact) == tags.target(elsewhere) != tags.target(otherwise)
    shifted = Fact("Ada lives", "{} in", "Rome", "London")  # the same letters, parted elsewhere
    assert tags.question(fact) != tags.question(shifted)


def test_tags_are_those_of_the_composed_unicode_form():
    """The tags of a text in this form are part of the protocol and stay the same between versions."""
    tags, fact = Tags(b"s"), Fact("São Paulo", "{} lies in", "Perú", "Brazil")
    typed_on_a_mac = Fact(
        *(unicodedata.normalize("NFD", text) for text in ("São Paulo", "{} lies in", "Perú", "Brazil"))
    )
    assert typed_on_a_mac != fact
    for same in (fact, typed_on_a_mac):
        assert tags.question(same) == "277b86a43d7e89dc6b344a5ae062b3fe5411542d0308da03da329877136aa05b"
        assert tags.answer(same) == "53b1ce04f2dff5725285b3d7fbcd2c5a4fc10c54329b141c8ed7e151b2468949"
        assert tags.target(same) == "e3858bb7f2b2ff184534068bb31b65ecf8d41086ce72c4541a305c4cf6032765"


@pytest.mark.parametrize(
    "compression, match", [((-1, "float16"), "axes is -1"), ((1, "float8"), "precision is 'float8'")]
)
def test_a_compression_that_does_not_exist(compression, match):
    with pytest.raises(ValueError, match=match):
        Compression(*compression)


def packed(path: Trajectory, mkv: Mkv, compression: Compression) -> Packet:
    return pack(path, mkv, "ada", 0, {"question": "a" * 64, "answer": "b" * 64}, compression)
