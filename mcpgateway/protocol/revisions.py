"""The protocol revisions and what differs between them (specification, `basic/lifecycle` and `basic/transports`)."""

from __future__ import annotations

LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Revisions with an initialize handshake, oldest first."""

NEWEST_LEGACY = LEGACY[-1]
MODERN = ("2026-07-28",)
"""Revisions without handshake and sessions."""

NEWEST_MODERN = MODERN[-1]

ASSUMED_WITHOUT_HEADER = "2025-03-26"
"""What a request without MCP-Protocol-Version speaks, says 2025-06-18."""


def negotiate(requested: str) -> str:
    """The revision that answers an `initialize`: the one asked for if it is spoken here, else the newest legacy one."""
    return requested if requested in LEGACY else NEWEST_LEGACY


def is_modern(version: str) -> bool:
    """Whether a revision has neither handshake nor sessions."""
    return version in MODERN


def sends_version_header(version: str) -> bool:
    """Whether requests after the handshake carry MCP-Protocol-Version (2025-06-18 and later)."""
    return version >= "2025-06-18"


def has_batches(version: str) -> bool:
    """Whether a body may be an array of messages: 2025-03-26 alone."""
    return version == "2025-03-26"


def primes_streams(version: str) -> bool:
    """Whether a stream begins with an event of an id alone, so that a client can come back for the rest: 2025-11-25."""
    return version == "2025-11-25"
