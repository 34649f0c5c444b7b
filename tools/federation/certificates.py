"""Certificates and key pairs, made on the spot: for one machine and one day, not for real hosts."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tools.federation.processes import HOST


def private(key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    """A private key in PEM, without a passphrase."""
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def certificates(folder: Path) -> None:
    """A certificate authority and a server's certificate for loopback, valid for a day: ca.crt, server.crt and .key."""
    now = datetime.now(UTC)

    def made(name: str, key, issuer: str, signer, authority: bool) -> x509.Certificate:
        names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (name, issuer)]
        builder = x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(signed_by, critical=False)
        places = [x509.IPAddress(ip_address(HOST)), x509.DNSName("localhost")]
        usage = x509.KeyUsage(True, False, False, False, False, authority, authority, False, False)
        builder = builder.add_extension(usage, critical=True)
        return builder.add_extension(x509.SubjectAlternativeName(places), critical=False).sign(signer, SHA256())

    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = made("fleke", authority, "fleke", authority, True)
    leaf = made("superlink", server, "fleke", authority, False)
    (folder / "ca.crt").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "server.crt").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "server.key").touch(mode=0o600)
    (folder / "server.key").write_bytes(private(server, PrivateFormat.PKCS8))


def node_key(path: Path) -> str:
    """A SuperNode's key pair; returns the public key in PEM, which is also written beside the private one."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.touch(mode=0o600)
    path.write_bytes(private(key, PrivateFormat.OpenSSH))
    public = key.public_key()
    path.with_suffix(".pub").write_bytes(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
