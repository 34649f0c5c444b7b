"""Unlearning of edits: exact withdrawal, approximations, an audit, a byte search in files, a signed certificate."""

from fleke_lib.unlearn.edits import approximate
from fleke_lib.unlearn.edits.certificate import certify, verify_certificate, weights_hash
from fleke_lib.unlearn.edits.withdrawal import downdate, forget, forgotten_check, withdraw

__all__ = [
    "approximate",
    "certify",
    "downdate",
    "forget",
    "forgotten_check",
    "verify_certificate",
    "weights_hash",
    "withdraw",
]
