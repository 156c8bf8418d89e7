"""Reads the `gateway` object: everything in it is ours, so every unknown key is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcpgateway.config.reader import Source, read_section, refuse_unknown, shown
from mcpgateway.config.text import Place
from mcpgateway.config.values import AuthConfig, GatewayConfig, TokenConfig

_hash = re.compile(r"sha256:([0-9a-fA-F]{64})")
_origin = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s?#@]+")
_host = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:\d{1,5})?")

_HASH_WANTED = 'expected "sha256:" and 64 hex digits, as printed by: mcpgateway token new NAME'


def read_gateway(data: object, source: Source) -> GatewayConfig:
    """The gateway's own settings. Problems are noted in `source`."""
    place: Place = ("gateway",)
    if not isinstance(data, dict):
        source.problem(place, f"expected an object, found {shown(data, place)}")
        return GatewayConfig()
    refuse_unknown(data, [field.name for field in msgspec.structs.fields(GatewayConfig)], place, source)
    settings = {key: value for key, value in data.items() if key != "auth"}
    gateway = read_section(GatewayConfig, settings, place, source)
    _check_addresses(gateway, place, source)
    return msgspec.structs.replace(
        gateway,
        auth=_read_auth(data.get("auth"), (*place, "auth"), source),
        public_url=gateway.public_url.rstrip("/"),
        allowed_hosts=tuple(host.lower() for host in gateway.allowed_hosts),
        allowed_origins=tuple(origin.lower() for origin in gateway.allowed_origins),
    )


def _check_addresses(gateway: GatewayConfig, place: Place, source: Source) -> None:
    if gateway.public_url and not _is_base_url(gateway.public_url):
        source.problem((*place, "public_url"), "expected the URL clients use, like https://mcp.example.com, without query")
    for index, host in enumerate(gateway.allowed_hosts):
        if not _host.fullmatch(host):
            source.problem((*place, "allowed_hosts", index), "expected a host, like mcp.example.com or mcp.example.com:8443")
    for index, origin in enumerate(gateway.allowed_origins):
        if not _origin.fullmatch(origin):
            source.problem((*place, "allowed_origins", index), "expected an origin, like https://app.example.com")


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment or parts.username)


def _read_auth(data: Any, place: Place, source: Source) -> AuthConfig | None:
    if data is None:
        return None
    if not isinstance(data, dict):
        source.problem(place, 'expected an object, {"tokens": {"NAME": "sha256:…"}}')
        return None
    refuse_unknown(data, ("tokens",), place, source)
    tokens = data.get("tokens")
    if not isinstance(tokens, dict) or not tokens:
        # Empty is refused too: it would lock everybody out, which nobody means.
        source.problem((*place, "tokens"), "expected an object with at least one token: a name and its hash")
        return None
    found = [token for name, value in tokens.items() for token in _read_name(name, value, (*place, "tokens", name), source)]
    _refuse_shared(found, (*place, "tokens"), source)
    return AuthConfig(tuple(found))


def _read_name(name: str, value: Any, place: Place, source: Source) -> Iterator[TokenConfig]:
    """The tokens of one name, written as a hash, a list of hashes, or an object with `hash` and `tenant`."""
    if not name.strip() or not name.isprintable() or len(name) > 200:
        source.problem(place, "a token's name has 1 to 200 printable characters")
    tenant: Any = ""
    if isinstance(value, dict):
        refuse_unknown(value, ("hash", "tenant"), place, source)
        value, tenant = value.get("hash"), source.expand(value.get("tenant", ""), (*place, "tenant"))
    if not isinstance(tenant, str):
        source.problem((*place, "tenant"), "expected a string")
        tenant = ""
    hashes = value if isinstance(value, list) and value else [value]
    for written in hashes:
        text = source.expand(written, place)
        if isinstance(text, str) and (match := _hash.fullmatch(text)):
            yield TokenConfig(name=name, hash=match[1].lower(), tenant=tenant)
        else:
            source.problem(place, _HASH_WANTED)


def _refuse_shared(tokens: list[TokenConfig], place: Place, source: Source) -> None:
    """One token is one caller: under two names it would be unclear whose sessions are meant."""
    owners: dict[str, str] = {}
    for token in tokens:
        if token.hash in owners:
            source.problem((*place, token.name), f"the same hash as {owners[token.hash]!r}; every token is its own")
        owners[token.hash] = token.name
