"""Which headers a configuration may name, and what their values may hold."""

from __future__ import annotations

import re

_name = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_control = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

UNNEEDED = frozenset({"accept", "content-type"})
"""Often copied into such files. The gateway sends its own, so these are passed over rather than refused."""

_OURS = frozenset(
    """accept accept-encoding connection content-encoding content-length content-type expect host keep-alive last-event-id
    mcp-method mcp-name mcp-protocol-version mcp-session-id proxy-authenticate proxy-connection te trailer transfer-encoding
    upgrade""".split()
)
_TRACE = frozenset({"baggage", "traceparent", "tracestate"})
_CREDENTIALS = frozenset({"authorization", "proxy-authorization"})


def fault_in_name(name: str) -> str | None:
    """Why no header may be configured under `name`, or None."""
    if not _name.fullmatch(name):
        return "not a header name"
    if name.lower() in _OURS:
        return "this header belongs to the gateway itself; leave it out"
    return None


def fault_in_forwarded(name: str) -> str | None:
    """Why a client's header `name` may not be forwarded, or None."""
    if name.lower() in _CREDENTIALS:
        return "a client's own token never goes upstream; put the upstream's credential into headers"
    if name.lower() in _TRACE:
        return "a client's trace is continued upstream anyway; leave it out"
    return fault_in_name(name)


def fault_in_value(value: str) -> str | None:
    """Why `value` cannot stand in a header, or None. The text never shows it."""
    if _control.search(value):
        return "its value holds a line break or another control character"
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return "its value holds characters outside Latin-1, which HTTP headers cannot carry"
    return None
