"""Whose session it is, as a hash over every identifying header that is sent upstream."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

PER_REQUEST_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "baggage",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "host",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "user-agent",
        "x-request-id",
    }
)
"""Headers that describe one request or the wire, not who calls. Every other header is identifying."""


def identity_hash(headers: Mapping[str, str] | None, *further: str) -> str:
    """SHA-256 in hex over the identifying headers, and over `further` strings that tell identities apart (TLS, generation).

    Header names compare case-insensitively. The encoding is injective: every part is preceded by its length, so that
    ("ab", "c") never meets ("a", "bc").
    """
    named = ((name.lower(), value) for name, value in (headers or {}).items())
    parts = [part for pair in sorted(named) if pair[0] not in PER_REQUEST_HEADERS for part in pair]
    return _digest([str(len(parts)), *parts, *further])


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def fingerprint(*parts: str) -> str:
    """A hash of strings, injective like `identity_hash`."""
    return _digest([str(len(parts)), *parts])
