"""The severities of log messages (RFC 5424, as MCP's `logging` names them), the least severe first."""

from __future__ import annotations

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


def reaches(level: str, threshold: str) -> bool:
    """Whether a message of `level` is to be told to somebody who asked for `threshold`. An unknown level is told."""
    return level not in LEVELS or threshold not in LEVELS or LEVELS.index(level) >= LEVELS.index(threshold)
