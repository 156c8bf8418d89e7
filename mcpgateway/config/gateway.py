"""Reads the `gateway` object: everything in it is ours, so every unknown key is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from mcpgateway.config.access import read_access
from mcpgateway.config.auth import read_auth
from mcpgateway.config.reader import Source, read_section, refuse_unknown, shown
from mcpgateway.config.text import Place
from mcpgateway.config.values import AuditConfig, GatewayConfig, ServerConfig

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
    if gateway.tracing.endpoint and not _is_base_url(gateway.tracing.endpoint):
        source.problem((*place, "tracing", "endpoint"), "expected a URL, like http://localhost:4318/v1/traces, without query")
    public_url = gateway.public_url.rstrip("/")
    return msgspec.structs.replace(
        gateway,
        auth=read_auth(data.get("auth"), public_url, (*place, "auth"), source),
        access=read_access(data.get("access"), servers, (*place, "access"), source),
        audit=_checked_audit(gateway.audit, (*place, "audit", "path"), source),
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


def _checked_audit(audit: AuditConfig, place: Place, source: Source) -> AuditConfig:
    """The settings with the path of the file itself, which is neither made nor opened yet."""
    if not audit.path:
        return audit
    path = source.beside(audit.path)
    try:
        Path(audit.path).expanduser()
        fault = _fault_in_log(path)
    except RuntimeError:
        fault = "begins with the home of a user that there is none of"
    except OSError as error:
        fault = f"cannot be used: {error.strerror}"
    if fault:
        source.problem(place, fault)
    return msgspec.structs.replace(audit, path=str(path))


def _fault_in_log(path: Path) -> str | None:
    """Why nothing could be appended to a file at `path`, or None. Raises OSError for names that the system refuses."""
    if "\0" in str(path):
        return "no name that a file can have"
    if path.is_dir():
        return "is a folder; expected the name of a file, which is made if there is none"
    if not path.parent.is_dir():
        return f"its folder {path.parent} is not there; make it first"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return "may not be written to by whoever runs the gateway"
    return None


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment or parts.username)
