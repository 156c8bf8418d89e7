"""What servers declare that they can do."""

from __future__ import annotations

from mcpgateway.errors import InvalidParams
from mcpgateway.protocol import jsonrpc
from mcpgateway.upstream.base import Welcome

LISTS = ("tools", "resources", "prompts")
"""Capabilities that come with lists, whose changes may be announced."""


def declares(welcome: Welcome, capability: str, part: str) -> bool:
    """Whether a server declared `part` of a capability, such as 'listChanged' of 'tools'."""
    raw = welcome.capabilities.get(capability)
    try:
        return raw is not None and bytes(jsonrpc.object_of(raw).get(part, b"false")) == b"true"
    except InvalidParams:
        return False
