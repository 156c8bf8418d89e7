"""The pool key: all that two calls must have in common to share a session."""

from __future__ import annotations

from typing import NamedTuple


class PoolKey(NamedTuple):
    """Two calls with different keys never meet in one session. Holds no credential: `identity` is a hash."""

    user: str
    """The verified principal's id."""
    url: str
    identity: str
    """Hash over the identifying headers, TLS and credential generation."""
    transport: str
    upstream: str = ""
    partition: str = ""
    """The sharing policy, and the conversation where it binds to one."""
    capabilities: str = ""
    """Fingerprint of the client capabilities that the session was opened with."""

    def __repr__(self) -> str:
        # The URL's query may hold an API key and the user's id is personal: neither belongs into logs.
        return f"<PoolKey {self.upstream or self.url.partition('?')[0]} {self.transport} {self.identity[:8]} {self.partition[:13]}>"


class Terms(NamedTuple):
    """How the sessions of one key are lent."""

    exclusive: bool = True
    """One lease per session at a time; otherwise all calls share one session."""
    max_sessions: int = 10
    max_age_seconds: float = float("inf")
    max_idle_seconds: float = float("inf")
    probe_after_seconds: float = float("inf")
    """A session idle for longer is asked whether it is alive before it is lent again."""
    single_use: bool = False
