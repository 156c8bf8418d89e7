"""Reads `tls` objects, and the certificate files that they name."""

from __future__ import annotations

import ssl
from typing import Any

import msgspec

from mcpgateway.config.reader import Source, read_section, refuse_unknown, shown
from mcpgateway.config.text import Place
from mcpgateway.config.values import TlsConfig
from mcpgateway.errors import ConfigError

_FILES = ("ca", "cert", "key")
_UNCHECKED = frozenset({"insecure", "verify", "rejectUnauthorized", "skip_verify", "check_hostname"})
"""What people try first with a private CA."""


def read_tls(data: Any, place: Place, source: Source) -> TlsConfig:
    """The settings in an object of the file, once its certificates were read for a try. Problems are noted in `source`."""
    if not isinstance(data, dict):
        source.problem(place, f"expected an object with ca, cert or key, found {shown(data, place)}")
        return TlsConfig()
    for key in _UNCHECKED & data.keys():
        source.problem((*place, key), "certificates are always checked; name the CA that signed the server's in ca")
    known = {key: value for key, value in data.items() if key not in _UNCHECKED}
    refuse_unknown(known, [field.name for field in msgspec.structs.fields(TlsConfig)], place, source)
    settings = read_section(TlsConfig, known, place, source)
    source.secrets.update({settings.key_password} - {""})
    paths = {name: str(source.beside(path)) if (path := getattr(settings, name)) else "" for name in _FILES}
    settings = msgspec.structs.replace(settings, **paths)
    if settings.key and not settings.cert:
        source.problem((*place, "key"), "a key without its certificate; name that in cert")
    elif not any(source.is_faulty((*place, name)) for name in (*_FILES, "key_password")):
        _try(settings, place, source)
    return settings


def _try(settings: TlsConfig, place: Place, source: Source) -> None:
    try:
        client_context(settings)
    except ConfigError as error:
        source.problem(place, str(error))


def client_context(settings: TlsConfig | None) -> ssl.SSLContext:
    """A new context for connections to servers, which checks their certificates and names.

    Without a `ca` it trusts what the system trusts, with one only that. Raises ConfigError naming the file that is at fault.
    """
    settings = settings or TlsConfig()
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"ca: {settings.ca}: {_reason(error)}; expected certificates in PEM form") from error
    if settings.cert:
        try:
            # Never without a password: OpenSSL would ask for that of an encrypted key on the terminal, and wait.
            context.load_cert_chain(settings.cert, settings.key or None, settings.key_password)
        except (OSError, ValueError) as error:
            files = f"{settings.cert} with key {settings.key}" if settings.key else settings.cert
            raise ConfigError(f"cert: {files}: {_reason(error)}; expected a certificate and its key in PEM form") from error
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not what it should be, or its key's password is wrong"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
