"""What clients say of themselves. It is kept for each that is remembered, and sent on to servers: so it must not be large."""

from __future__ import annotations

from msgspec import Raw

from mcpgateway.errors import InvalidParams
from mcpgateway.protocol import jsonrpc

MAX_DESCRIPTION_BYTES = 32 * 1024


def description(raw: Raw, field: str) -> bytes:
    """A client's capabilities or clientInfo, copied. Raises InvalidParams naming the field: too large, or no object."""
    described = bytes(raw)
    if len(described) > MAX_DESCRIPTION_BYTES:
        raise InvalidParams(f"{field} is larger than {MAX_DESCRIPTION_BYTES} bytes")
    jsonrpc.object_of(described)
    return described
