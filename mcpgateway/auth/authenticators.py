"""All that can tell whose a bearer token is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from mcpgateway.auth.principals import Principal
from mcpgateway.auth.tokens import StaticTokens
from mcpgateway.errors import InvalidToken

_LIKE_A_JWT = b"eyJ"  # what '{"' comes to in Base64


class Issued(Protocol):
    """Knows the tokens that issuers gave out."""

    def known(self, token: bytes, now: float) -> Principal | None:
        """Whose token this is, if it was verified lately. `now` is the time of day, in seconds."""

    async def verify(self, token: bytes) -> Principal:
        """Whose token this is. Raises InvalidToken, KeysUnavailable."""

    async def aclose(self) -> None:
        """End what is under way."""


class NoneIssued:
    """Where no issuer is configured: no token is taken for a JWT."""

    def __repr__(self) -> str:
        return "<NoneIssued>"

    def known(self, token: bytes, now: float) -> None:
        return None

    async def verify(self, token: bytes) -> Principal:
        raise InvalidToken("the token is none that is known here")

    async def aclose(self) -> None:
        return


class Authenticators:
    """Static tokens first, then JWTs. Most calls are answered by `known`, at once; only a new token needs `verify`."""

    def __init__(self, static: StaticTokens, jwts: Issued, wall: Callable[[], float] = time.time) -> None:
        self._static = static
        self._jwts = jwts
        self._wall = wall

    def __repr__(self) -> str:
        return f"<Authenticators {self._static!r} {self._jwts!r}>"

    def known(self, token: bytes) -> Principal | None:
        """Whose token this is, if that can be told without waiting."""
        # A static token never comes to be a known JWT, so this order spares one hash and changes nothing else.
        if token.startswith(_LIKE_A_JWT) and (principal := self._jwts.known(token, self._wall())) is not None:
            return principal
        return self._static.principal_of(token)

    async def verify(self, token: bytes) -> Principal:
        """Whose token this is. Raises InvalidToken, KeysUnavailable."""
        return self._static.principal_of(token) or await self._jwts.verify(token)

    async def aclose(self) -> None:
        """End what is under way."""
        await self._jwts.aclose()
