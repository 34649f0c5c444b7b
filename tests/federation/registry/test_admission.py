"""Any input is a packet within the rules or is refused in one sentence, without another error and without a change."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from fleke_lib.edit import Edit
from fleke_lib.edit.trajectories import Trajectory, trajectories
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import VECTORS, Packet, pack
from fleke_lib.federation.registry.admission import Refused, Rules, ordinary_state
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.mkv.store import stored_mkvs
from fleke_lib.model.activations import record
from fleke_lib.ridge.solve import LowRank
from tests.federation.sample_packets import FINGERPRINT, LAYERS, RULES, mkv_of, packet_before, packet_of, path_of
from tests.tiny import tiny

GOOD = packet_of(0)
TAGS = {"question": GOOD.question, "answer": GOOD.answer}
ABOUT = json.loads(json.loads(GOOD.data[8 : 8 + int.from_bytes(GOOD.data[:8], "little")])["__metadata__"]["about"])


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with Registry(tmp_path_factory.mktemp("registry") / "registry.sqlite", RULES) as registry:
        registry.put(GOOD.data)
        yield registry


def refused(registry, data) -> str:
    """The reason for which a registry does not take this in; its file is afterwards what it was."""
    before = registry.path.read_bytes()
    with pytest.raises(Refused) as error:
        registry.put(data)
    assert registry.path.read_bytes() == before
    reason = str(error.value)
    assert reason.endswith(".") and "\n" not in reason and len(reason) < 400
    return reason


def refused_or_taken(registry, data) -> None:
    """A packet that is written well and within the bounds is another packet, with another id."""
    try:
        packet = RULES.check(data)
    except Refused:
        refused(registry, data)
    else:
        assert packet.id != GOOD.id or data == GOOD.data


def written(tensors, about) -> bytes:
    return save({name: t.contiguous() for name, t in tensors.items()}, {"about": json.dumps(about, sort_keys=True)})


def changed(name, change, about=None) -> bytes:
    tensors = load(packet_of(0, compression=Compression(1, "float32")).data)
    tensors[name] = change(tensors[name])
    return written(tensors, {**ABOUT, **(about or {})})


def scaled(**factors: float) -> bytes:
    """A packet whose vectors are this many times as long, in float32."""
    path, mkv = path_of(0), mkv_of(0)
    keys = {layer: factors.get("keys", 1.0) * keys for layer, keys in path.keys.items()}
    shares = {layer: factors.get("shares", 1.0) * share for layer, share in path.shares.items()}
    h = factors.get("h", 1.0) * mkv.h
    mkv = Mkv(h + factors.get("residual", 1.0) * mkv.residual, h)
    bases = {layer: factors.get("bases", 1.0) * base for layer, base in path.bases.items()}
    path = Trajectory(keys, shares, FINGERPRINT, mkv.residual, bases=bases)
    return pack(path, mkv, "ada", 0, TAGS, Compression(1, "float32")).data


@pytest.mark.parametrize(
    "compression", [Compression(), Compression(0), Compression(4, "float32"), Compression(3, "int8")]
)
def test_good_packets_are_admitted(compression):
    packet = packet_of(3, compression=compression)
    assert RULES.check(packet.data).id == packet.id


def test_the_largest_packet_is_within_the_limit():
    largest = pack(path_of(0, 6), mkv_of(0), "\U0001f9ea" * 64, 2**31 - 1, TAGS, Compression(4, "float32"))
    assert len(largest.data) <= RULES.limit
    assert RULES.check(largest.data).client == "\U0001f9ea" * 64


def test_rules_of_a_model_are_its_numbers():
    lm = tiny("llama")
    rules = Rules.of(lm, (1, 2), axes=3)
    state = 2.5 * ordinary_state(lm, 2)
    assert rules == Rules(lm.fingerprint((1, 2)), (1, 2), 32, 64, axes=3, state=state, clamp=1.1 * 0.75, share=1.25)
    assert Rules.of(lm).layers == lm.preset.layers
    assert Rules.of(tiny("gemma3_text")).share == float("inf")


def test_rules_are_those_of_the_base_model():
    lm = tiny("llama")
    edit = Edit({1: LowRank.of(torch.full((32, 64), 0.1))}, lm.fingerprint((1,)))
    with edit.applied(lm), pytest.raises(ValueError, match="the rules for packets belong to the base model"):
        Rules.of(lm)


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(registry, name, number):
    assert "not finite" in refused(registry, changed(name, lambda t: t.index_fill(-1, torch.tensor([2]), number)))


@pytest.mark.parametrize("name", VECTORS)
def test_other_shapes(registry, name):
    refused(registry, changed(name, lambda t: t[..., :-1]))
    refused(registry, changed(name, lambda t: t[None]))
    refused(registry, changed(name, lambda t: t[..., :0]))
    refused(registry, changed(name, lambda t: t.double()))
    if name not in ("z", "h"):
        refused(registry, changed(name, lambda t: t[1:]))


@pytest.mark.parametrize(
    "rules, reason",
    [
        (replace(RULES, fingerprint="f" * 64), "is of model '0123456789ab'"),
        (replace(RULES, layers=(3, 5, 7)), "compute it at layers [3, 5, 7]"),
        (replace(RULES, d_model=33), "widths (32, 48) instead of (33, 48)"),
        (replace(RULES, d_mlp=47), "widths (32, 48) instead of (32, 47)"),
        (replace(RULES, axes=0), "carries 1 axes a layer: send 0 at most"),
        (replace(RULES, max_bytes=len(GOOD.data) - 1), "are more than the"),
    ],
)
def test_packets_of_others(tmp_path, rules, reason):
    with Registry(tmp_path / "registry.sqlite", rules) as registry:
        assert reason in refused(registry, GOOD.data)


def test_the_size_is_looked_at_before_the_bytes_are(monkeypatch):
    monkeypatch.setattr(Packet, "read", lambda data: pytest.fail("it was parsed"))
    with pytest.raises(Refused, match="are more than"):
        RULES.check(bytes(RULES.limit + 1))
    with pytest.raises(Refused, match="a packet is bytes and this is str"):
        RULES.check("text")


@pytest.mark.parametrize(
    "factors, reason",
    [
        ({"residual": 1000.0}, "for z - h"),
        ({"residual": 0.1}, "for a share"),
        ({"shares": 1000.0}, "for a share"),
        ({"keys": 1e6}, "for a mean key or an axis"),
        ({"bases": 1e6}, "for a mean key or an axis"),
        ({"h": 1e6}, "for h"),
        ({"residual": 1e37}, "for z - h"),  # the square of its norm is infinite in float32
        ({"h": 0.0, "residual": 1e-3}, "for z - h"),
        ({"h": 0.0, "residual": 0.0}, "for a share"),
    ],
)
def test_absurd_norms(registry, factors, reason):
    assert reason in refused(registry, scaled(**factors))


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda left: -left, "has a negative trace"),
        (lambda left: left.index_fill(0, torch.tensor([1]), -1e-30), "has a negative trace"),
        (lambda left: left + 1e10, "for the root of a trace"),
        (lambda left: left.index_fill(0, torch.tensor([2]), 3e38), "for the root of a trace"),
    ],
)
def test_absurd_traces(registry, change, reason):
    """A trace raises lambda for everybody. A negative one would make the system singular."""
    assert reason in refused(registry, changed("left", change))


def test_norms_within_the_bounds():
    norms = {"residual": 0.82 / 0.1, "shares": 1.0, "keys": 1000.0, "h": 100.0}
    mkv = mkv_of(0)
    norms["residual"] = 0.82 * 100 * float(mkv.h.norm() / mkv.residual.norm())
    RULES.check(scaled(**norms))
    with pytest.raises(Refused, match="z - h"):
        RULES.check(scaled(**norms | {"residual": norms["residual"] * 0.83 / 0.82}))


@pytest.mark.model
def test_the_rules_of_the_default_model_know_what_is_usual(lm):
    """Its shipped MKVs pass; a state that is the first token's, or a share that nobody asked for, does not."""
    rules, layers = Rules.of(lm), lm.preset.layers
    facts = load_facts("atlas")[::30]
    mkvs = stored_mkvs(lm, facts)
    packets = [pack(path, mkv, "ada", 0, TAGS) for path, mkv in zip(trajectories(lm, facts, mkvs), mkvs, strict=True)]
    for packet in packets:
        assert rules.check(packet.data).id == packet.id
    means = {i: packets[0].means[i][None] for i in layers}
    path = Trajectory(means, packets[0].shares, packets[0].fingerprint, packets[0].residual, bases=packets[0].bases)
    with torch.no_grad(), record(outputs={"h": lm.layers[layers[-1]]}) as seen:
        lm.body(torch.tensor([lm.tokenizer("Chicago is a").input_ids]))
    h = seen["h"][0, 0]
    with pytest.raises(Refused, match="for h, and"):
        rules.check(pack(path, Mkv(h + mkvs[0].residual, h), "ada", 0, TAGS).data)
    greater = replace(path, shares={i: 8 * share for i, share in path.shares.items()})
    with pytest.raises(Refused, match="for a share, and"):
        rules.check(pack(greater, mkvs[0], "ada", 0, TAGS).data)


@pytest.mark.parametrize(
    "about",
    [
        {"slot": 2**63},
        {"slot": -1},
        {"slot": True},
        {"slot": 1.5},
        {"client": ""},
        {"client": "a\nb"},
        {"client": "\ud800"},
        {"client": "\x1b[2J"},
        {"client": "a" * 65},
        {"answer": "subject"},
        {"fingerprint": "\ud800"},
        {"layers": []},
        {"layers": [*LAYERS][::-1]},
        {"layers": 3},
        {"format": "fleke-packet-1"},
        {"subject": "in clear"},
    ],
)
def test_heads_that_say_something_else(registry, about):
    refused(registry, changed("z", lambda z: z, about))


def test_packets_of_the_format_before(registry):
    assert "has the format 'fleke-packet-1' instead of 'fleke-packet-2'" in refused(registry, packet_before(GOOD))


@given(st.binary(max_size=300))
def test_random_bytes(registry, data):
    assert "not a packet" in refused(registry, data)


@given(st.integers(0, len(GOOD.data) - 1))
def test_truncated(registry, length):
    refused(registry, GOOD.data[:length])


@given(st.binary(min_size=1, max_size=9))
def test_longer(registry, more):
    refused(registry, GOOD.data + more)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 8 * len(GOOD.data) - 1), min_size=1, max_size=3, unique=True), st.booleans())
def test_flipped_bits(registry, bits, in_the_head):
    data = bytearray(GOOD.data)
    for bit in bits:
        bit = bit % 7000 if in_the_head else bit
        data[bit // 8] ^= 1 << bit % 8
    refused_or_taken(registry, bytes(data))


ROUNDED = packet_of(0, compression=Compression(1, "int4"))


@settings(max_examples=300)
@given(st.lists(st.integers(0, 8 * len(ROUNDED.data) - 1), min_size=1, max_size=3, unique=True))
def test_flipped_bits_of_a_rounded_packet_mean_something_else(bits):
    """No other bytes hold the same vectors under the same tags."""
    data = bytearray(ROUNDED.data)
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    try:
        packet = RULES.check(bytes(data))
    except Refused:
        return
    names = ("client", "slot", "question", "answer", "target")
    vectors = ("shares", "means", "bases", "axes")
    assert (
        [getattr(packet, name) for name in names] != [getattr(ROUNDED, name) for name in names]
        or packet.left != ROUNDED.left
        or not torch.equal(packet.z, ROUNDED.z)
        or not torch.equal(packet.h, ROUNDED.h)
        or any(not torch.equal(getattr(packet, name)[i], getattr(ROUNDED, name)[i]) for name in vectors for i in LAYERS)
    )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(anything | st.dictionaries(st.sampled_from(sorted(ABOUT)), anything).map(lambda some: {**ABOUT, **some}))
def test_any_head(registry, about):
    refused_or_taken(registry, written(load(GOOD.data), about))


dtypes = st.sampled_from(
    [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64, torch.bool]
)
shapes = st.lists(st.integers(0, 4) | st.sampled_from([3, 32, 48]), max_size=3)
names = st.sampled_from([*VECTORS, *(f"{name}.scale" for name in VECTORS), "other"])


@given(st.dictionaries(names, st.tuples(shapes, dtypes), max_size=6), st.booleans())
def test_any_tensors(registry, drawn, among_good):
    tensors = {name: torch.ones(shape).to(dtype) for name, (shape, dtype) in drawn.items()}
    for good in (GOOD, ROUNDED) if among_good else (None,):
        refused_or_taken(registry, written({**(load(good.data) if good else {}), **tensors}, ABOUT))


def test_nesting_without_end(registry):
    deep = "[" * 3000 + "]" * 3000
    refused(registry, save(load(GOOD.data), {"about": deep}))
    head = f'{{"__metadata__": {deep}}}'.encode()
    refused(registry, len(head).to_bytes(8, "little") + head)


@given(st.text(st.characters(), min_size=1, max_size=64), st.integers(0, 2**70))
def test_what_is_admitted_can_be_kept(registry, client, slot):
    """A pseudonym or slot that passes the rules passes the database, too."""
    try:
        about = {**ABOUT, "client": client, "slot": slot}
        packet = RULES.check(written(load(GOOD.data), about))
    except (Refused, UnicodeEncodeError):
        return
    registry.put(packet.data)
    assert (client, slot) == (registry.vectors(client=client, slot=slot).clients[0], slot)
    assert registry.delete_packet(packet.id) == 1 and packet.id != GOOD.id
