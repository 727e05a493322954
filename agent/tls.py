"""A certificate of our own, for machines that have none: a browser gives a microphone only to https."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from pathlib import Path

import aioice.ice
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..models.errors import ConfigError
from .settings import state_folder

LIFETIME = datetime.timedelta(days=365)
RENEW = datetime.timedelta(days=14)


def self_signed(folder: Path | None = None) -> tuple[Path, Path]:
    """Certificate and key files for all names and addresses of this machine; the last ones while they still fit.

    folder: where they are kept; None takes `tls` in the `state_folder`. The key is readable by its
    owner only. Raises ConfigError when the folder cannot be written.
    """
    folder = folder or state_folder() / "tls"
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = _names()
    if not (key.is_file() and _fits(certificate, names)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(certificate, key, names)
        except OSError as error:
            raise ConfigError(f"cannot keep a certificate in {folder}: {error.strerror or error}") from None
    return certificate, key


def fingerprint(certificate: Path) -> str:
    """SHA-256 of a PEM certificate, as browsers show it."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256()).hex(":").upper()


def _names() -> list[x509.GeneralName]:
    hosts = dict.fromkeys(("localhost", socket.gethostname()))
    addresses = dict.fromkeys(
        ipaddress.ip_address(address.partition("%")[0])
        for address in ("127.0.0.1", "::1", *aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True))
    )
    return [*(x509.DNSName(host) for host in hosts), *(x509.IPAddress(address) for address in addresses)]


def _fits(certificate: Path, names: list[x509.GeneralName]) -> bool:
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        held = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    return set(held) == set(names) and loaded.not_valid_after_utc - RENEW > datetime.datetime.now(datetime.UTC)


def _write(certificate: Path, key: Path, names: list[x509.GeneralName]) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SpeechGPT-Gen on this machine")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    key.unlink(missing_ok=True)
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
