"""Reads the `gateway` object: everything in it is ours, so every unknown key is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from mcpgateway.config.access import read_access
from mcpgateway.config.auth import read_auth
from mcpgateway.config.reader import Source, read_section, refuse_unknown, shown
from mcpgateway.config.text import Place
from mcpgateway.config.values import GatewayConfig, ServerConfig

_origin = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s?#@]+")
_host = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:\d{1,5})?")
_READ_ELSEWHERE = ("auth", "access")


def read_gateway(data: object, servers: Sequence[ServerConfig], source: Source) -> GatewayConfig:
    """The gateway's own settings; `servers` are those it may name. Problems are noted in `source`."""
    place: Place = ("gateway",)
    if not isinstance(data, dict):
        source.problem(place, f"expected an object, found {shown(data, place)}")
        return GatewayConfig()
    refuse_unknown(data, [field.name for field in msgspec.structs.fields(GatewayConfig)], place, source)
    settings = {key: value for key, value in data.items() if key not in _READ_ELSEWHERE}
    gateway = read_section(GatewayConfig, settings, place, source)
    _check_addresses(gateway, place, source)
    public_url = gateway.public_url.rstrip("/")
    return msgspec.structs.replace(
        gateway,
        auth=read_auth(data.get("auth"), public_url, (*place, "auth"), source),
        access=read_access(data.get("access"), servers, (*place, "access"), source),
        public_url=public_url,
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
