"""Which media types a client sends and takes."""

from __future__ import annotations

from mcpgateway.downstream.exchange import Headers
from mcpgateway.errors import UnsupportedMedia


def accepts(headers: Headers, kind: bytes) -> bool:
    """Whether a client says that it takes answers of this kind."""
    accept = headers.get(b"accept", b"").lower()
    return kind in accept or b"*/*" in accept or kind.partition(b"/")[0] + b"/*" in accept


def prefers_streams(accept: bytes) -> bool:
    """Whether a client that takes both kinds of answer names event streams first. `accept`: its header."""
    accept = accept.lower()
    return 0 <= accept.find(b"text/event-stream") < accept.find(b"application/json")


def check_json(headers: Headers) -> None:
    """Raises UnsupportedMedia unless the body says that it is JSON."""
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMedia("the body must be application/json, and Content-Type must say so")
