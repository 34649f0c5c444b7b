"""Verify a certificate of withdrawal with its issuer's public key, and list what it states.

    verify-certificate withdrawal.json --public-key issuer.pem

The key must come from a source that you trust, not from the file. The signature shows who issued the certificate and
that nothing was changed; it does not show that the statements are true. The exit status is 1 if the signature does not
fit, or if a check that the certificate states has failed.
"""

import argparse

from fleke_lib.commands.opening import public_key
from fleke_lib.storage.files import user_path
from fleke_lib.unlearn.edits.certificate import Certificate, verify_certificate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verify-certificate`."""
    parser.add_argument("certificate", type=user_path, metavar="FILE", help="the certificate")
    parser.add_argument(
        "--public-key", type=user_path, required=True, metavar="FILE", help="the issuer's Ed25519 public key, in PEM"
    )


def main(arguments: argparse.Namespace) -> int:
    """Verify the signature, then print what was withdrawn, when and how, and each check."""
    certificate, key = Certificate.load(arguments.certificate), public_key(arguments.public_key)
    try:
        verify_certificate(certificate, key)
    except ValueError as error:
        raise RuntimeError(error) from None  # a well-formed call whose answer is no: status 1
    whom = f"of {certificate.client}" if certificate.client else "of single packets"
    print(f"signed by {certificate.public_key[:12]}: withdrawal {whom}, {certificate.packets} packets")
    print(f"{certificate.when}, by {certificate.method}")
    for check in certificate.checks:
        print(f"{'holds' if check.passed else 'FAILS'}: {check.name}")
    return 0 if certificate.passed else 1
