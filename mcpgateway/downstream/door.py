"""Who may come in: Host and Origin (DNS rebinding), and the bearer token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from urllib.parse import urlsplit

from mcpgateway.auth.principals import ANONYMOUS, Principal
from mcpgateway.errors import Forbidden, Unauthenticated

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Tokens(Protocol):
    """Knows bearer tokens."""

    def known(self, token: bytes) -> Principal | None:
        """Whose token this is, if that can be told without waiting."""

    async def verify(self, token: bytes) -> Principal:
        """Whose token this is. Raises InvalidToken, KeysUnavailable."""

    async def aclose(self) -> None:
        """End what is under way."""


class Door:
    """Checks each request before anything else looks at it.

    `local`: bound to loopback, so that Host must be a loopback name or one of `hosts`. `tokens` is None where no
    authentication is configured; then everybody is one anonymous principal.
    """

    def __init__(self, tokens: Tokens | None, *, local: bool, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self.tokens = tokens
        """Changed as a whole when the configuration changes."""
        self._local = local
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._passed: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<Door {'with' if self.tokens else 'without'} authentication>"

    def check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Raises Forbidden for a Host that is not ours, or an Origin that may not call."""
        host = headers.get(b"host", b"")
        if host not in self._passed:
            self._check_host(host.decode("latin-1").lower())
            if len(self._passed) < 100:
                self._passed.add(host)
        origin = headers.get(b"origin")
        if origin is not None and not self._allowed(origin.decode("latin-1").lower(), host.decode("latin-1").lower()):
            raise Forbidden("this Origin may not use the gateway; add it to gateway.allowed_origins if it should")

    def _check_host(self, host: str) -> None:
        if host in self._hosts or _name_of(host) in self._hosts:
            return
        if self._local and _name_of(host) not in LOOPBACK:
            raise Forbidden("this Host is not the gateway's; add it to gateway.allowed_hosts if it is")
        if self._hosts and not self._local:
            raise Forbidden("this Host is not the gateway's; add it to gateway.allowed_hosts if it is")

    def _allowed(self, origin: str, host: str) -> bool:
        if origin.rstrip("/") in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:  # no URL, as in "http://["
            return False
        if parts.scheme not in ("http", "https"):
            return False
        if self._local and parts.hostname in LOOPBACK:
            return True
        return bool(self._hosts) and parts.netloc == host

    def known(self, headers: dict[bytes, bytes]) -> Principal | None:
        """Who calls, if that can be told at once: nearly always."""
        if self.tokens is None:
            return ANONYMOUS
        token = _bearer(headers)
        return self.tokens.known(token) if token else None

    async def verify(self, headers: dict[bytes, bytes]) -> Principal:
        """Who calls. Raises Unauthenticated, InvalidToken, KeysUnavailable."""
        if self.tokens is None:
            return ANONYMOUS
        token = _bearer(headers)
        if not token:
            raise Unauthenticated("a valid bearer token is needed: send Authorization: Bearer <token>")
        return await self.tokens.verify(token)


def _bearer(headers: dict[bytes, bytes]) -> bytes:
    said = headers.get(b"authorization", b"")
    return said[7:].strip() if said[:7].lower() == b"bearer " else b""


def _name_of(host: str) -> str:
    """The host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
