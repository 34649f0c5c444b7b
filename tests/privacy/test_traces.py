"""The search of all bytes: it finds vectors and texts in every form that it says, and nothing in other bytes."""

import base64
import json

import numpy as np
import pytest
import torch

from fleke_lib.facts.fact import Fact
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.privacy.traces import exposed
from tests.federation.sample_packets import packet_of

FACTS = [Fact("São Tomé", "The capital of {} is", "Reykjavik", "Rome"), Fact("Ada", "{} was born in", "Paris", "Tokyo")]
LONG = {"São Tomé", "The capital of", "The capital of São Tomé is", "Reykjavik", "was born in", "Ada was born in"}


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def within(found: bytes, before: int = 101) -> bytes:
    return noise(before, 1) + found + noise(500, 2)


@pytest.mark.parametrize("precision", ["int4", "int8", "float16", "float32"])
def test_a_packet_is_found_in_a_file_and_in_a_message_and_another_is_not(tmp_path, precision):
    packet, other = (packet_of(seed, compression=Compression(2, precision)) for seed in (0, 1))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "store").write_bytes(within(packet.data))
    (tmp_path / "empty").write_bytes(b"")
    found = exposed([packet, other], FACTS, [tmp_path])
    assert set(found.vectors) == {packet.id} and {"z", "h", "shares", "means"} <= set(found.vectors[packet.id])
    assert (found.texts, found.size) == ((), 101 + len(packet.data) + 500)
    assert exposed([packet, other], [], messages=[b"", within(packet.data)]).vectors == found.vectors
    assert not exposed([other], FACTS, [tmp_path]) and exposed([packet], [], [tmp_path / "deep" / "store"])


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("part", ["z", "h", "means of layer 5", "axes of layer 3", "shares of layer 6"])
def test_a_vector_alone_is_found_in_32_and_in_16_bits_whatever_the_packet_has(kind, part):
    packet = packet_of(3, compression=Compression(2, "int4"))
    name, _, layer = part.partition(" of layer ")
    vector = getattr(packet, name)[int(layer)] if layer else getattr(packet, name)
    numbers = vector.numpy().astype(kind).tobytes()
    what = f"{part} in {np.dtype(kind).name}"
    for some in (numbers, numbers[8:], numbers[: len(numbers) - 4]):
        assert what in exposed([packet], [], messages=[within(some)]).vectors[packet.id]
    assert not exposed([packet], [], messages=[within((-vector).numpy().astype(kind).tobytes())])


@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "write",
    [
        bytes.hex,
        lambda b: b.hex().upper(),
        lambda b: base64.b64encode(b).decode(),
        lambda b: base64.urlsafe_b64encode(b).decode(),
    ],
    ids=["hex", "HEX", "base64", "urlsafe"],
)
def test_vectors_and_texts_in_hexadecimal_and_base64_are_found(write, before):
    packet = packet_of(3, compression=Compression(2, "float16"))
    vector = write(noise(before, 5) + packet.z.half().numpy().tobytes())
    text = write(noise(before, 6) + b"Reykjavik")
    message = json.dumps({"of": "x" * before + vector, "says": text}).encode()
    found = exposed([packet], FACTS, messages=[message])
    assert "z in float16" in found.vectors[packet.id] and found.texts == ("Reykjavik",)
    silent = json.dumps({"of": write(noise(800)), "says": write(b"Reykjavia")}).encode()
    assert not exposed([packet], FACTS, messages=[silent])


@pytest.mark.parametrize(
    "write",
    [
        str.encode,
        lambda text: text.encode("utf-16"),
        lambda text: json.dumps(text).encode(),
        lambda text: text.encode("utf-16-be"),
    ],
)
def test_texts_are_found_however_they_are_written(write):
    for text in LONG:
        assert text in exposed([], FACTS, messages=[within(write(text))]).texts
    every = exposed([], FACTS, messages=[write(text) for text in LONG])
    assert set(every.texts) == LONG and every
    assert exposed([], FACTS, messages=[within(write("Ada of Paris, Rome"))]).texts == (), "too short to be told"


def test_pieces_do_not_join_across_messages_and_zeros_are_no_trace():
    packet = packet_of(3, compression=Compression(2, "float32"))
    numbers = packet.z.numpy().tobytes()
    halves = [part for i in range(0, len(numbers), 16) for part in [numbers[i : i + 16]]]
    assert not exposed([packet], [], messages=halves)
    assert not exposed([packet], [], messages=[bytes(10_000), torch.zeros(999).numpy().tobytes()])


def test_nothing_to_search_is_refused(tmp_path):
    for where in ({}, {"places": [tmp_path]}, {"messages": [b""]}):
        with pytest.raises(ValueError, match="no byte to search"):
            exposed([packet_of(0)], FACTS, **where)
