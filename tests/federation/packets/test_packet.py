"""Packets: what they keep of a trajectory, what they do not reveal, and that their encoding is canonical."""

import hashlib
import json
import unicodedata
from dataclasses import replace

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
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.federation.packets.precision import decode, encode
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.ridge.sums import sums
from tests.federation.sample_packets import (
    CONTEXTS,
    D_MLP,
    D_MODEL,
    LAYERS,
    fact_of,
    mkv_of,
    packet_before,
    packet_of,
    path_of,
)
from tests.textbook.samples import relative
from tests.tiny import tiny

compressions = st.builds(Compression, st.integers(0, 5), st.sampled_from(["float32", "float16", "int8", "int4"]))
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
    for name in ("shares", "means", "bases", "axes"):
        assert all(torch.equal(getattr(again, name)[layer], getattr(packet, name)[layer]) for layer in LAYERS)
    assert again.left == packet.left and set(again.left) == set(LAYERS)
    assert packet_of(seed, client, slot, compression).data == packet.data


@given(seeds, compressions)
def test_the_parts_add_up(seed, compression):
    packet = packet_of(seed, compression=compression)
    sizes = packet.sizes()
    assert sum(sizes.values()) == len(packet.data)
    states, key, axis = {
        "float32": (4, 4 * D_MLP, 4 * D_MLP),
        "float16": (2, 2 * D_MLP, 2 * D_MLP),
        "int8": (2, D_MLP + 4, D_MLP + 4),
        "int4": (2, 2 * (16 + 2), 2 * (16 + 2)),  # two blocks of 32 numbers, each with its scale in two bytes
    }[compression.precision]
    assert sizes["z"] == sizes["h"] == states * D_MODEL
    assert sizes["means"] == len(LAYERS) * key
    assert sizes["moves"] == (len(LAYERS) - 1) * axis
    assert sizes["axes"] == len(LAYERS) * compression.axes * axis
    assert sizes["left"] == len(LAYERS) * 4


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
    """Eckart-Young: what is missing is the rest of the singular values of what is not the mean key.

    Its trace is `left`, so that with any C the trace of the system is that of the trajectory.
    """
    path = path_of(seed, contexts, words)
    packet = packed(path, mkv_of(seed), Compression(axes, "float32"))
    for layer in LAYERS:
        keys, w, others = path.keys[layer].double(), context_weights(contexts).double(), path.bystanders[layer].double()
        spread = torch.einsum("c,cd,ce->de", w, keys - w @ keys, keys - w @ keys)
        values = torch.linalg.eigvalsh(spread + BYSTANDER * others.T @ others).clamp(min=0).sqrt().flip(0)
        missing = torch.linalg.matrix_norm(sums([path], layer).S - sums([packet], layer).S)
        assert_close(missing, values[axes:].pow(4).sum().sqrt(), atol=1e-5, rtol=1e-5)
        assert abs(packet.left[layer] - float(values[axes:].square().sum())) < 1e-5 * max(1, float(values.max() ** 2))
        C = torch.diag(torch.linspace(0.1, 3, D_MLP, dtype=torch.float64))
        own, sent = (sums([one], layer).system(C, lam=0.5).trace() for one in (path, packet))
        assert_close(sent, own, rtol=1e-6, atol=1e-6)


def test_axes_that_a_fact_does_not_have_are_zeros():
    for precision in ("float16", "int8", "int4"):
        packet = packet_of(0, compression=Compression(CONTEXTS + 2, precision))
        axes = packet.axes[3]
        assert axes.shape == (CONTEXTS + 2, D_MLP)
        assert axes[: CONTEXTS - 1].norm(dim=1).min() > 0.1
        assert not axes[CONTEXTS - 1 :].any()
        assert packet.left == dict.fromkeys(LAYERS, 0.0), "rounding errors are no spread"


@given(seeds)
def test_eight_bits_are_off_by_half_a_step_at_most(seed):
    exact, rounded = (
        packet_of(seed, compression=Compression(2, "float32")),
        packet_of(seed, compression=Compression(2, "int8")),
    )
    for name in ("shares", "means", "axes"):
        for layer in LAYERS:
            x, y = getattr(exact, name)[layer], getattr(rounded, name)[layer]
            step = x.abs().amax(-1, keepdim=True) / 127
            assert ((x - y).abs() <= 0.5001 * step).all()
    for name in ("z", "h"):
        assert_close(getattr(rounded, name), getattr(exact, name), rtol=2**-11, atol=2**-24)
    for layer in LAYERS[1:]:  # a base key is a difference of two rounded vectors
        moves = [packet.means[layer] - packet.bases[layer] for packet in (exact, rounded)]
        assert ((moves[0] - moves[1]).abs() <= 0.501 * moves[0].abs().amax() / 127).all()
    assert all(torch.equal(packet.bases[3], packet.means[3]) for packet in (exact, rounded)), "nothing below moves it"


def test_sixteen_bits_are_off_by_a_two_thousandth_at_most():
    exact, rounded = (
        packet_of(1, compression=Compression(2, "float32")),
        packet_of(1, compression=Compression(2, "float16")),
    )
    assert_close(rounded.z, exact.z, rtol=2**-11, atol=2**-24)
    assert_close(rounded.mean(3), exact.mean(3), rtol=2**-11, atol=2**-24)
    assert_close(rounded.spread(3), exact.spread(3), rtol=2**-11, atol=2**-24)


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


wide = st.integers(1, 100)


@given(seeds, wide, st.integers(1, 4), st.sampled_from([1e-12, 1.0, 1e4]))
def test_four_bits_are_off_by_half_a_step_of_their_block_at_most(seed, width, rows, size):
    """The step is a bfloat16 number: up to 2^-8 greater or smaller than a seventh of the block's largest entry."""
    generator = torch.Generator().manual_seed(seed)
    vectors = size * torch.randn(rows, width, generator=generator) * torch.rand(width, generator=generator) ** 4
    stored = encode("axes", vectors, "int4")
    back = decode(stored, "axes", width)
    assert back.shape == vectors.shape and stored["axes"].shape == (rows, 16 * -(-width // 32))
    for start in range(0, width, 32):
        x, y = vectors[:, start : start + 32], back[:, start : start + 32]
        step = x.abs().amax(1, keepdim=True) / 7
        assert ((x - y).abs() <= 0.5 * (1 + 2**-7) * step).all()
        assert_close(y.abs().amax(1, keepdim=True), 7 * step, rtol=2**-8, atol=0)
    again = encode("axes", back, "int4")
    assert all(torch.equal(again[name], stored[name]) for name in stored), "rounding twice is rounding once"


def test_the_code_of_four_bits_is_known_by_hand():
    """Part of the format: two's complement, the first number in the low bits, zeros behind the last."""
    stored = encode("moves", torch.tensor([[7.0, -7.0, 0.9, -2.0, 3.0]]), "int4")
    assert stored["moves"].tolist() == [[0x97, 0xE1, 0x03, *[0] * 13]] and stored["moves.scale"].tolist() == [[1.0]]
    assert decode(stored, "moves", 5).tolist() == [[7.0, -7.0, 1.0, -2.0, 3.0]]
    nothing = encode("moves", torch.zeros(2, 5), "int4")
    assert not any(tensor.any() for tensor in nothing.values())


def rounded(tensor: str, change, precision: str = "int4") -> bytes:
    """A good packet, written as `pack` writes, after a change to one of its tensors."""
    data = packet_of(0, compression=Compression(CONTEXTS, precision)).data
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = load(data)
    change(tensors[tensor])
    return save(tensors, head["__metadata__"])


def put(index: tuple, value: float):
    return lambda tensor: tensor.__setitem__(index, value)


def times(factor: float):
    return lambda tensor: tensor.mul_(factor)


@pytest.mark.parametrize(
    "tensor, change, match",
    [
        ("axes", put((0, 0, -1), 0x10), "axes that are not rounded"),  # D_MLP is 48: the last 16 numbers are padding
        ("moves", put((0, -1), 0x01), "moves that are not rounded"),
        ("axes", put((0, 0, 3), 0x88), "axes that are not rounded"),  # -8
        ("axes.scale", put((0, 0, 0), -1.0), "scale of axes that is not finite or not positive"),
        ("axes.scale", put((0, -1, 0), -0.0), "scale of axes that is not finite or not positive"),
        ("axes.scale", put((0, 0, 0), float("nan")), "scale of axes that is not finite"),
        ("moves.scale", put((0, 0), float("inf")), "scale of moves that is not finite"),
        ("axes.scale", put((0, 0, 0), 0.0), "axes that are not rounded"),  # numbers that mean nothing
        ("axes.scale", put((0, -1, 0), 1.0), "axes that are not rounded"),  # a scale that means nothing
        ("means", put((0, slice(None)), 3), "means that are not rounded"),  # 127 with a smaller scale means the same
        ("means", put((0, 0), -128), "means that are not rounded"),
        ("shares.scale", times(-1.0), "scale of shares that is not finite or not positive"),
        ("shares.scale", times(float("nan")), "scale of shares that is not finite"),
    ],
)
def test_rounded_numbers_are_written_in_one_way(tensor, change, match):
    """No bytes but those of `pack` mean the same vectors, in either of the rounded precisions."""
    kinds = ["int4"] if tensor.startswith(("axes", "moves")) else ["int4", "int8"]
    for precision in kinds:
        with pytest.raises(ValueError, match=rf"^this packet has a?.*{match}.*: send what `pack` made\.$"):
            Packet.read(rounded(tensor, change, precision))
    Packet.read(rounded(tensor, lambda same: None))


def test_an_old_packet_is_refused_in_one_sentence():
    """Also where it says that it is of this format."""
    before = packet_before(packet_of(0))
    renamed = before.replace(b"fleke-packet-1", b"fleke-packet-2")
    for data, match in ((before, "has the format 'fleke-packet-1' instead of 'fleke-packet-2'"), (renamed, "moves")):
        with pytest.raises(ValueError, match=match) as error:
            Packet.read(data)
        assert str(error.value).endswith("send what `pack` made.") and "\n" not in str(error.value)


@given(seeds, st.sampled_from(["float32", "int4"]))
def test_without_keys_on_the_base_model_a_packet_has_no_bases(seed, precision):
    """As for a model with a norm behind its MLPs."""
    path = path_of(seed)
    based, bare = (packed(one, mkv_of(seed), Compression(1, precision)) for one in (path, replace(path, bases={})))
    assert bare.bases == {} and bare.sizes()["moves"] == 0
    assert Packet.read(bare.data).bases == {}
    for layer in LAYERS:
        assert torch.equal(bare.means[layer], based.means[layer])
        base = path.bases[layer] if layer != LAYERS[0] else path.mean(layer)
        assert_close(based.bases[layer].double(), base.double(), rtol=0, atol=1e-5 if precision == "float32" else 0.5)
    assert torch.equal(bare.residual, based.residual) and torch.equal(bare.residual, bare.z - bare.h)


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_keys_on_the_base_model_are_there_for_every_layer_or_for_none(rows):
    tensors = load(packet_of(0, compression=Compression(1, "float32")).data)
    data = packet_of(0, compression=Compression(1, "float32")).data
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors["moves"] = torch.ones(rows, D_MLP)
    with pytest.raises(ValueError, match="has moves of shape"):
        Packet.read(save(tensors, head["__metadata__"]))


@pytest.mark.parametrize(
    "compression, match", [((-1, "float16"), "axes is -1"), ((1, "float8"), "precision is 'float8'")]
)
def test_a_compression_that_does_not_exist(compression, match):
    with pytest.raises(ValueError, match=match):
        Compression(*compression)


def packed(path: Trajectory, mkv: Mkv, compression: Compression) -> Packet:
    return pack(path, mkv, "ada", 0, {"question": "a" * 64, "answer": "b" * 64}, compression)
