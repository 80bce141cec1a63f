"""TLS without set-up: an ephemeral self-signed certificate that travels inside the Flower message."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: The name in the certificate. Clients check it instead of the address, which NAT may change.
SERVICE_NAME = "tavit-body-service"


@dataclass(frozen=True)
class Certificate:
    """A private key and its certificate, both PEM.

    Attributes
    ----------
    key_pem : bytes
        Never leaves the server's process.
    certificate_pem : bytes
        What clients trust for this run.
    """

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes


def ephemeral_certificate(days: int = 30) -> Certificate:
    """Make a P-256 key and a self-signed certificate for `SERVICE_NAME`, valid from a day ago (clocks differ)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVICE_NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVICE_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(key_pem, certificate.public_bytes(serialization.Encoding.PEM))


def session_token() -> str:
    """256 random bits from the operating system: a secret, so not derived from the run's seed."""
    return secrets.token_urlsafe(32)
