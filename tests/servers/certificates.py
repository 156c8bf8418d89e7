"""Certificates for tests: an authority that signs for servers on loopback and for clients."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates. `pem` is its own."""

    def __init__(self, name: str = "an authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        builder = _builder(self._name, self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        signed = builder.add_extension(usage, critical=True).add_extension(identifier, critical=False)
        self.pem = _pem(signed.sign(self._key, hashes.SHA256()))

    def signed(self, name: str, password: str = "") -> tuple[bytes, bytes]:
        """A certificate for `name` and for 127.0.0.1, and its key, encrypted where there is a password."""
        key = ec.generate_private_key(ec.SECP256R1())
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = _builder(_named(name), self._name, key).add_extension(addresses, critical=False)
        certificate = builder.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())
        hidden: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            hidden = serialization.BestAvailableEncryption(password.encode())
        form = serialization.PrivateFormat.PKCS8
        return _pem(certificate), key.private_bytes(serialization.Encoding.PEM, form, hidden)

    def write(self, folder: Path, name: str, password: str = "") -> tuple[str, str]:
        """Signs for `name` and writes NAME.pem and NAME.key, over what may be there. The paths of both."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, content in zip(paths, self.signed(name, password), strict=True):
            path.write_bytes(content)
        return str(paths[0]), str(paths[1])

    def write_own(self, folder: Path, name: str = "ca.pem") -> str:
        """Writes the authority's own certificate. Its path."""
        (folder / name).write_bytes(self.pem)
        return str(folder / name)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - DAY).not_valid_after(now + 30 * DAY)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
