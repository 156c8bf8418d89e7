"""Reads `gateway.auth.jwt`: one issuer of JWTs, or a list of them."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcpgateway.config.reader import Source, read_section, refuse_unknown
from mcpgateway.config.text import Place
from mcpgateway.config.values import ASYMMETRIC, SYMMETRIC, JwtConfig

MAX_KEY_FILE_BYTES = 1 << 20
_KNOWN = tuple(field.name for field in msgspec.structs.fields(JwtConfig) if field.name != "keys")


def read_issuers(data: Any, public_url: str, place: Place, source: Source) -> tuple[JwtConfig, ...]:
    """The issuers whose tokens are let in. Problems are noted in `source`."""
    if not public_url:
        source.problem(place, "needs gateway.public_url: tokens are issued for the URL that clients use")
    if isinstance(data, list) and data:
        entries = [(entry, (*place, index)) for index, entry in enumerate(data)]
    else:
        entries = [(data, place)]
    issuers = [_read_issuer(entry, public_url, where, source) for entry, where in entries]
    for index, issuer in enumerate(issuers):
        if issuer.issuer and issuer.issuer in [other.issuer for other in issuers[:index]]:
            source.problem((*entries[index][1], "issuer"), "given twice; an issuer has one entry, with all its audiences")
    return tuple(issuers)


def _read_issuer(data: Any, public_url: str, place: Place, source: Source) -> JwtConfig:
    if not isinstance(data, dict):
        source.problem(place, "expected an object, or a list of objects, with issuer, audience, and jwks_url or key_file")
        return JwtConfig()
    refuse_unknown(data, _KNOWN, place, source)
    written = {key: value for key, value in data.items() if key in _KNOWN}
    if isinstance(written.get("audience"), str):
        written["audience"] = [written["audience"]]
    found = read_section(JwtConfig, written, place, source)
    _note(_fault_in_issuer(found.issuer), (*place, "issuer"), source)
    _check_audience(found, public_url, place, source)
    _check_algorithms(found, place, source)
    if not found.subject_claim:
        source.problem((*place, "subject_claim"), "is empty; leave it out to use sub")
    return msgspec.structs.replace(found, keys=_read_keys(found, place, source))


def _note(fault: str | None, place: Place, source: Source) -> None:
    if fault and not source.is_faulty(place):
        source.problem(place, fault)


def _fault_in_issuer(issuer: str) -> str | None:
    # A URL, so that no issuer has the name under which static tokens are kept.
    parts = _parts_of(issuer)
    if parts is None or parts[2]:
        return "expected the issuer's URL exactly as it stands in its tokens, like https://id.example.com"
    return None


def _check_audience(found: JwtConfig, public_url: str, place: Place, source: Source) -> None:
    place = (*place, "audience")
    if not found.audience:
        _note(
            "is missing; it is the URL of this gateway that tokens must be issued for, usually gateway.public_url",
            place,
            source,
        )
    for audience in found.audience if public_url else ():
        if audience != public_url and not audience.startswith(f"{public_url}/"):
            _note(
                "must be gateway.public_url or begin with it: a token for anything else is not for this gateway", place, source
            )


def _check_algorithms(found: JwtConfig, place: Place, source: Source) -> None:
    place = (*place, "algorithms")
    for algorithm in found.algorithms:
        if algorithm in SYMMETRIC and not found.key_file:
            _note("HS256, HS384 and HS512 need a shared secret, which only key_file can hold", place, source)
        elif algorithm not in ASYMMETRIC and algorithm not in SYMMETRIC:
            _note(f"expected some of {', '.join(ASYMMETRIC + SYMMETRIC)}", place, source)
    if not found.algorithms:
        _note("is empty; leave it out for all asymmetric ones", place, source)


def _read_keys(found: JwtConfig, place: Place, source: Source) -> bytes:
    """What stands in the key file; nothing where keys are fetched."""
    if bool(found.jwks_url) == bool(found.key_file):
        if not (source.is_faulty((*place, "jwks_url")) or source.is_faulty((*place, "key_file"))):
            source.problem(place, "needs one of jwks_url and key_file, and not both")
        return b""
    if found.jwks_url:
        _note(_fault_in_jwks_url(found.jwks_url), (*place, "jwks_url"), source)
        return b""
    path = source.beside(found.key_file)
    source.files.add(str(path))
    try:
        with path.open("rb") as file:
            keys = file.read(MAX_KEY_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        _note(f"cannot be read: {getattr(error, 'strerror', None) or 'not a path'}", (*place, "key_file"), source)
        return b""
    if len(keys) > MAX_KEY_FILE_BYTES:
        _note("is larger than 1 MiB; expected a JWKS or a PEM public key", (*place, "key_file"), source)
    return keys


def _fault_in_jwks_url(url: str) -> str | None:
    """Why keys may not be fetched from `url`, or None: whoever can change them on the way could issue tokens."""
    parts = _parts_of(url)
    if parts is None:
        return "expected a URL, like https://id.example.com/.well-known/jwks.json"
    scheme, host, _ = parts
    if scheme != "https" and not _is_this_machine(host):
        return "must begin with https://, for whoever can change the keys on the way could issue tokens; or use key_file"
    return None


def _parts_of(url: str) -> tuple[str, str, str] | None:
    """Scheme, host and query of an http or https URL; None for anything else."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        return None
    fine = url.isascii() and url.isprintable() and " " not in url and not parts.fragment and parts.username is None
    return (
        (parts.scheme, parts.hostname, parts.query) if fine and parts.scheme in ("http", "https") and parts.hostname else None
    )


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
