"""TLS without set-up: an ephemeral certificate, or an operator's own, travels inside the Flower message."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tavit_flwr.errors import ConfigError

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


def own_certificate(certificate: Path, private_key: Path) -> Certificate:
    """Read an operator's certificate and key, PEM files.

    Clients are told this very certificate and trust no other, so who signed it does not matter.

    Raises
    ------
    ConfigError
        When a file cannot be read, the two do not belong together, the certificate names no host, or its time is over.
    """
    where = "configuration keys 'wire.certificate' and 'wire.private_key'"
    try:
        pem, key_pem = certificate.read_bytes(), private_key.read_bytes()
        first = x509.load_pem_x509_certificate(pem)
        key = serialization.load_pem_private_key(key_pem, None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError("a certificate and its unencrypted key, PEM files", str(error), where) from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != first.public_key().public_bytes(*form):
        raise ConfigError("the key of this certificate", "another key", where)
    if not first.not_valid_before_utc <= datetime.now(UTC) <= first.not_valid_after_utc:
        raise ConfigError(
            "a certificate that is valid now", f"{first.not_valid_before_utc} to {first.not_valid_after_utc}", where
        )
    certificate_name(pem)
    return Certificate(key_pem, pem)


def certificate_name(certificate_pem: bytes) -> str:
    """The first host name in a certificate: what a client checks instead of the address.

    Raises
    ------
    ConfigError
        When it names none.
    """
    first = x509.load_pem_x509_certificate(certificate_pem)
    try:
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName)[0]
    except (x509.ExtensionNotFound, IndexError) as error:
        raise ConfigError(
            "a DNS name among the certificate's subject alternative names", "none", "key 'wire.certificate'"
        ) from error


def session_token() -> str:
    """256 random bits from the operating system: a secret, so not derived from the run's seed."""
    return secrets.token_urlsafe(32)
