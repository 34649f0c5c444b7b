"""Certificates: every changed byte is noticed, and the hashes are those of the weights."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fleke_lib.edit.edit import Edit
from fleke_lib.ridge.solve import LowRank
from fleke_lib.unlearn.edits.certificate import Certificate, Check, certify, verify_certificate, weights_hash
from tests.tiny import tiny

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WHEN = "2025-01-31T12:00:00+01:00"
CHECKS = (Check("weights", True, {"distance": 0.0, "before": 0.25}), Check("bytes", False, {"traces": 3}))


# written by version 0.1.0, with the checks of that time
EARLIER = (
    '{"checks":[{"figures":{"before":0.5,"distance":0.0},"name":"weights are the never-joined ones","passed":true},'
    '{"figures":{"efficacy_magnitude after":-0.25,"greatest difference":0.0},"name":"withdrawn facts score as in the '
    'control","passed":true},{"figures":{"AUC after, alone":0.5},"name":"membership signal is the control\'s","passed":'
    'true}],"client":"bob","format":"fleke-withdrawal-1","marks":["abababab"],"method":"replay of the ledger",'
    '"public_key":"03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8","signature":"0333cbd503115d6d4d50'
    '373a4dcb72df2a724a2e8666230e477a9f2fb0c50907322705dfbebeca681ea07dff675801e687e85cabf290e71f943f1b27c60c070e",'
    '"weights_after":{"ada":"22222222"},"weights_before":{"ada":"11111111"},"when":"2025-01-31T12:00:00+01:00"}'
)


def issued(**changes):
    about = {
        "client": "bob",
        "marks": ("ab" * 32, "cd" * 32),
        "when": WHEN,
        "method": "replay",
        "weights_before": {"ada": "1" * 64, "bob": "2" * 64},
        "weights_after": {"ada": "3" * 64},
        "checks": CHECKS,
        "key": KEY,
    }
    return certify(**{**about, **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return issued().save(tmp_path_factory.mktemp("certificates") / "certificate.json")


def test_a_certificate_is_what_was_signed(saved):
    certificate = Certificate.load(saved)
    verify_certificate(certificate, KEY.public_key())
    assert certificate == issued() and certificate.packets == 2 and not certificate.passed
    assert issued(checks=CHECKS[:1]).passed
    page = certificate._repr_html_()
    assert "2 packets" in page and "fails" in page and "before 0.25, distance 0<" in page


def test_an_earlier_certificate_still_verifies(tmp_path):
    (tmp_path / "earlier.json").write_text(EARLIER)
    certificate = Certificate.load(tmp_path / "earlier.json")
    verify_certificate(certificate, KEY.public_key())
    assert certificate.passed and len(certificate.checks) == 3


def test_the_signature_is_of_the_file_without_it(saved):
    """By hand, from the file's text and the library that signs, without any code of ours."""
    fields = json.loads(saved.read_bytes())
    signature = bytes.fromhex(fields.pop("signature"))
    message = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(fields["public_key"])).verify(signature, message)
    assert fields["when"] == WHEN and fields["format"] == "fleke-withdrawal-1"


@settings(max_examples=300)
@given(st.data())
def test_any_changed_byte_is_noticed(saved, data):
    content = bytearray(saved.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    changed = saved.with_name("changed.json")
    changed.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a certificate|signature does not fit|is of key"):
        verify_certificate(Certificate.load(changed), KEY.public_key())


@settings(max_examples=50)
@given(st.data())
def test_any_byte_more_or_less_is_noticed(saved, data):
    content = saved.read_bytes()
    place = data.draw(st.integers(0, len(content)))
    cut = data.draw(st.booleans())
    middle = b"" if cut else data.draw(st.binary(min_size=1, max_size=3))
    changed = saved.with_name("changed.json")
    changed.write_bytes(content[: max(place - cut, 0)] + middle + content[place:])
    if changed.read_bytes() == content:
        return
    with pytest.raises(ValueError):
        verify_certificate(Certificate.load(changed), KEY.public_key())


@pytest.mark.parametrize(
    "change",
    [
        {"client": "ada"},
        {"marks": ("ab" * 32,)},
        {"when": "2025-01-31T12:00:00+00:00"},
        {"method": "forgetting"},
        {"weights_after": {"ada": "4" * 64}},
        {"checks": (CHECKS[0], replace(CHECKS[1], passed=True))},
        {"checks": (CHECKS[0], replace(CHECKS[1], figures={"traces": 0.0}))},
        {"signature": "00" * 64},
        {"signature": "not hexadecimal"},
        {"signature": issued().signature.upper()},
        {"checks": (Check("weights", True, {"distance": float("nan")}),)},
    ],
)
def test_a_changed_certificate_does_not_fit(change):
    with pytest.raises(ValueError, match="signature does not fit"):
        verify_certificate(replace(issued(), **change), KEY.public_key())


def test_anothers_key_is_refused():
    other = Ed25519PrivateKey.generate()
    with pytest.raises(ValueError, match="is of key"):
        verify_certificate(issued(), other.public_key())
    forged = replace(issued(key=other), public_key=KEY.public_key().public_bytes_raw().hex())
    with pytest.raises(ValueError, match="signature does not fit"):
        verify_certificate(forged, KEY.public_key())
    verify_certificate(issued(key=other), other.public_key())


@pytest.mark.parametrize("when", ["yesterday", "2025-01-31", "2025-01-31T12:00:00", ""])
def test_a_time_without_an_offset_is_none(when):
    with pytest.raises(ValueError, match="with its offset"):
        issued(when=when)


def test_a_figure_is_a_number():
    with pytest.raises(ValueError, match="distance of check 'weights' is not finite"):
        issued(checks=(Check("weights", True, {"distance": float("nan")}),))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 10**5, b'{"format":"fleke-withdrawal-1"}', b"\xff\xfe"])
def test_another_file_is_not_a_certificate(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="is not a certificate"):
        Certificate.load(tmp_path / "file")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_hash_is_of_the_weights_as_they_are_used(kind):
    lm = tiny(kind)
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(shape, generator=generator).double() for shape in ((lm.d_model, 2), (2, lm.d_mlp))]
    edit = Edit({2: LowRank(*factors), 1: LowRank(*factors)}, lm.fingerprint((1, 2)))
    base = {layer: lm.weight(layer).clone() for layer in (1, 2)}
    digest = hashlib.sha256()
    for layer in (1, 2):
        digest.update(b"%d:" % layer)
        digest.update((base[layer].double() + factors[0] @ factors[1]).float().contiguous().numpy().tobytes())
    assert weights_hash(lm, edit) == digest.hexdigest()
    assert not lm.edits and all(torch.equal(lm.weight(layer), base[layer]) for layer in (1, 2))
    with edit.applied(lm):
        assert weights_hash(lm, layers=(2, 1)) == digest.hexdigest()
    assert weights_hash(lm, layers=(1, 2)) != digest.hexdigest()
    dense = {layer: LowRank(torch.eye(lm.d_model).double(), edit.delta(layer)) for layer in (1, 2)}
    assert weights_hash(lm, replace(edit, changes=dense)) == digest.hexdigest(), "another way to the same weights"
    assert weights_hash(lm) == weights_hash(lm, layers=lm.preset.layers)
