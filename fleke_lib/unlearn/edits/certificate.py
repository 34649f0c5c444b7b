"""A signed certificate of withdrawal: what was withdrawn, when, how, the resulting weights, and what was checked.

The signature (Ed25519, RFC 8032) covers the canonical JSON of everything else: sorted keys, no blanks, ASCII only, all
numbers finite. A certificate therefore has exactly one encoding, and changing any byte of its file makes it invalid.

The signature proves who issued the certificate and that it was not changed since. It does not prove that its content is
true; to verify that, compute the hashes and the checks again. The certificate contains no text of a fact. It names
packets by the registry's keyed hashes, which cannot be linked to packets without that registry's file. Whether rows of
the withdrawn facts were deleted from caches of MKVs is one of the checks (`withdrawal.forgotten_check`).
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from html import escape
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fleke_lib.edit import Edit
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.storage.files import half_made, user_path

FORMAT = "fleke-withdrawal-1"


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it holds, and the measured figures."""

    name: str
    passed: bool
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """A withdrawal as its issuer states it.

    client: whose packets were withdrawn; "" for single packets. marks: the packets' keyed hashes.
    when: ISO 8601 with an offset. method: how the new weights were computed.
    weights_before, weights_after: the `weights_hash` of each client's model.
    public_key, signature: of the issuer, in hexadecimal digits.
    """

    client: str
    marks: tuple[str, ...] = field(repr=False)
    when: str
    method: str
    weights_before: Mapping[str, str] = field(repr=False)
    weights_after: Mapping[str, str] = field(repr=False)
    checks: tuple[Check, ...]
    public_key: str
    signature: str = field(repr=False)

    @property
    def packets(self) -> int:
        return len(self.marks)

    @property
    def passed(self) -> bool:
        """Whether every check holds; a certificate with failed checks is signed, too."""
        return all(check.passed for check in self.checks)

    def save(self, path: str | Path) -> Path:
        path = user_path(path)
        with half_made(path) as half:
            half.write_bytes(_canonical(_content(self) | {"signature": self.signature}))
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Certificate":
        """Read what `save` wrote. The signature is not checked; use `verify_certificate`.

        Raises:
            ValueError: the file is not a certificate in its canonical encoding.
        """
        data = user_path(path).read_bytes()
        try:
            fields = json.loads(data)
            if fields.pop("format") != FORMAT:
                raise ValueError("of another format")
            checks = tuple(Check(**check) for check in fields.pop("checks"))
            found = cls(marks=tuple(fields.pop("marks")), checks=checks, **fields)
            if _canonical(_content(found) | {"signature": found.signature}) != data:
                raise ValueError("not written as `save` writes")
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a certificate ({error}): give a file that Certificate.save wrote."
            ) from None
        return found

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(check.name)}</td><td>{'holds' if check.passed else 'fails'}</td>"
            f"<td>{escape(', '.join(f'{name} {value:.4g}' for name, value in check.figures.items()))}</td></tr>"
            for check in self.checks
        )
        whom = f"of {self.client}" if self.client else "of single packets"
        about = f"Withdrawal {whom}, {self.packets} packets, {self.when}, by {self.method}; key {self.public_key[:12]}"
        return (
            f"<table><caption>{escape(about)}</caption><tr><th>check</th><th></th><th>figures</th></tr>{rows}</table>"
        )


def certify(
    *,
    client: str = "",
    marks: Sequence[str],
    when: str,
    method: str,
    weights_before: Mapping[str, str],
    weights_after: Mapping[str, str],
    checks: Sequence[Check],
    key: Ed25519PrivateKey,
) -> Certificate:
    """Sign a withdrawal. No clock is read: the issuer states the time in `when`.

    Raises:
        ValueError: `when` is not ISO 8601 with an offset, or a figure is not finite.
    """
    try:
        stated = datetime.fromisoformat(when).tzinfo is not None
    except ValueError:
        stated = False
    if not stated:
        raise ValueError(f"when is {when!r}: give a date and time with its offset, such as 2025-01-31T12:00:00+00:00.")
    for check in checks:
        if wrong := [name for name, value in check.figures.items() if not math.isfinite(value)]:
            raise ValueError(f"{wrong[0]} of check {check.name!r} is not finite: measure it on one fact or more.")
    public = key.public_key().public_bytes_raw().hex()
    plain = tuple(Check(c.name, bool(c.passed), {name: float(v) for name, v in c.figures.items()}) for c in checks)
    weights = dict(weights_before), dict(weights_after)
    unsigned = Certificate(client, tuple(marks), when, method, *weights, plain, public, "")
    signature = key.sign(_canonical(_content(unsigned))).hex()
    return Certificate(client, tuple(marks), when, method, *weights, plain, public, signature)


def verify_certificate(certificate: Certificate, public_key: Ed25519PublicKey) -> None:
    """Check that the holder of this key signed the certificate as it is; returns None if so.

    Args:
        public_key: the issuer's key from a trusted source. The key in the certificate is only the claimed issuer's.

    Raises:
        ValueError: the certificate is of another issuer, or it was changed.
    """
    expected = public_key.public_bytes_raw().hex()
    if certificate.public_key != expected:
        given = str(certificate.public_key)[:12]
        raise ValueError(f"the certificate is of key {given}, not of {expected[:12]}: give the key of who issued it.")
    try:
        signature = bytes.fromhex(certificate.signature)
        if signature.hex() != certificate.signature:
            raise ValueError("not in its one form")
        public_key.verify(signature, _canonical(_content(certificate)))
    except (InvalidSignature, TypeError, ValueError):
        message = "the signature does not fit what the certificate says: something was changed, so ask for it again."
        raise ValueError(message) from None


def weights_hash(lm: LanguageModel, edit: Edit | None = None, layers: Sequence[int] | None = None) -> str:
    """SHA-256 of the edited layers' weights with the edit applied, in hexadecimal digits.

    The hash covers each layer in turn: its number, then W `(d_model, d_mlp)` in float32, row by row. It is a hash of
    the weights, not of the edit: anybody with the edited model can compute it, and equal weights have equal hashes.
    Differences in dW that are lost in the rounding of W do not change it.

    Args:
        edit: None for the model as it is.
        layers: by default those of the edit, or of the preset without an edit.
    """
    if edit is not None:
        with edit.applied(lm):
            return weights_hash(lm, layers=layers or edit.layers)
    digest = hashlib.sha256()
    for layer in sorted(layers or lm.preset.layers):
        weight = lm.weight(layer).detach().float().cpu().contiguous()
        digest.update(f"{layer}:".encode() + weight.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _content(certificate: Certificate) -> dict:
    """Everything that is signed."""
    return {name: value for name, value in asdict(certificate).items() if name != "signature"} | {"format": FORMAT}


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
