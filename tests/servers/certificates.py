"""Certificates for tests: an authority that signs for servers and for clients, and the contexts made of them."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
LOOPBACK = "127.0.0.1"


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

    def signed(self, name: str, password: str = "", *, host: str = LOOPBACK, days: int = 30) -> tuple[bytes, bytes]:
        """A certificate for `name` at `host` that expires in so many days, and its key, encrypted if there is a password."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = x509.SubjectAlternativeName([_host(host)])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = _builder(_named(name), self._name, key, days).add_extension(hosts, critical=False)
        certificate = builder.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())
        hidden: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            hidden = serialization.BestAvailableEncryption(password.encode())
        form = serialization.PrivateFormat.PKCS8
        return _pem(certificate), key.private_bytes(serialization.Encoding.PEM, form, hidden)

    def trusting(self) -> ssl.SSLContext:
        """A client's context that trusts this authority alone."""
        return ssl.create_default_context(cadata=self.pem.decode())

    def serving(self, host: str = LOOPBACK, days: int = 30) -> ssl.SSLContext:
        """A server's context, with a certificate for `host` that expires in so many days."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "both.pem")
            path.write_bytes(b"".join(self.signed(host, host=host, days=days)))
            context.load_cert_chain(path)
        return context

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


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 30) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - 9 * DAY).not_valid_after(now + days * DAY)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
