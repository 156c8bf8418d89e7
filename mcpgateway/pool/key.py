"""The pool key: all that two calls must have in common to share a session."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit


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
    client_factory: object = None
    """What makes the HTTP client, where the caller brought it: its TLS and its proxies are part of who calls."""

    def __repr__(self) -> str:
        # The user's id is personal: it does not belong into logs.
        return f"<PoolKey {shown(self)} {self.transport} {self.identity[:8]} {self.partition[:13]}>"


def place_of(key: PoolKey) -> str:
    """The upstream that `key` counts against. Two upstreams with one URL are two."""
    return key.upstream or key.url


def shown(key: PoolKey) -> str:
    """The upstream as it may be shown to anybody. A bare URL may hold a password or, in its query, an API key."""
    return key.upstream or shown_url(key.url)


def shown_url(url: str) -> str:
    """A URL without what may be secret in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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
    spares: int = 0
    """Of single-use sessions: how many are kept open that were never used."""
