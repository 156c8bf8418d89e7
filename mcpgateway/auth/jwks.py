"""Where an issuer's keys come from: a file, read once, or its JWKS, fetched when needed and never more often than agreed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import jwt

from mcpgateway import runtime
from mcpgateway.auth.keys import KeySet, parse_keys
from mcpgateway.errors import InvalidToken, KeysUnavailable
from mcpgateway.runtime import Clock

_log = logging.getLogger("mcpgateway.auth")

FRESH_SECONDS = 300.0
"""How long keys are used before they are fetched again, so that one that was withdrawn stops counting."""
PAUSE_SECONDS = 30.0
"""The least time between two fetches: tokens that name made-up keys must not make us a nuisance to the issuer."""
RETRY_SECONDS = 5.0
"""The same, after a fetch that failed."""
FETCH_SECONDS = 10.0
MAX_JWKS_BYTES = 1 << 20

Fetch = Callable[[str], Awaitable[bytes]]
"""The body at a URL; raises what it likes. Follows no redirects."""


class Keys(Protocol):
    """Knows the keys of one issuer."""

    async def find(self, id: str | None, algorithm: str) -> jwt.PyJWK:
        """The key that a token names. Raises InvalidToken, KeysUnavailable."""

    async def aclose(self) -> None: ...


class FixedKeys:
    """Keys that never change."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def __repr__(self) -> str:
        return f"<FixedKeys {self._keys!r}>"

    async def find(self, id: str | None, algorithm: str) -> jwt.PyJWK:
        key = self._keys.find(id, algorithm)
        if key is None:
            raise InvalidToken("the token is signed with a key that is not its issuer's")
        return key

    async def aclose(self) -> None:
        """Nothing is under way."""


class FetchedKeys:
    """The keys at an issuer's JWKS URL.

    A key that is not known leads to one fetch for all who wait, old keys to one that nobody waits for. Where a fetch
    fails, the keys there were stay in force. `withdrawn` is called when a key is no longer among those fetched.
    """

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str],
        fetch: Fetch,
        clock: Clock,
        withdrawn: Callable[[], None] = lambda: None,
        fetch_seconds: float = FETCH_SECONDS,
    ) -> None:
        self._url = url
        self._algorithms = algorithms
        self._fetch = fetch
        self._fetch_seconds = fetch_seconds
        self._now = clock.now
        self._withdrawn = withdrawn
        self._keys = KeySet()
        self._failed = False
        self._stale_at = 0.0
        self._next_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<FetchedKeys {self._keys!r}{' fetching' if self._fetching else ''}>"

    async def find(self, id: str | None, algorithm: str) -> jwt.PyJWK:
        if self._keys and self._now() >= self._stale_at:
            self._begin()
        key = self._keys.find(id, algorithm)
        if key is None and (fetching := self._begin()) is not None:
            await asyncio.wait([fetching])  # a caller that gives up leaves the fetch to the others
            key = self._keys.find(id, algorithm)
        if key is not None:
            return key
        if self._failed:
            raise KeysUnavailable
        raise InvalidToken("the token is signed with a key that is not its issuer's")

    async def aclose(self) -> None:
        """End a fetch that is under way."""
        await runtime.end_task(self._fetching)

    def _begin(self) -> asyncio.Task[None] | None:
        """The fetch under way, begun now if there is none; None where it is too early for one."""
        if self._fetching is None and self._now() >= self._next_at:
            self._fetching = runtime.spawn(self._refresh(), "fetch an issuer's keys")
        return self._fetching

    async def _refresh(self) -> None:
        try:
            keys = await self._fetched()
        except Exception as error:  # whatever it was, the keys there are stay in force
            _log.warning("an issuer's keys could not be fetched: %s: %s", type(error).__name__, error)
            self._failed = True
            self._next_at = self._now() + RETRY_SECONDS
        else:
            self._take(keys)
        finally:
            self._fetching = None

    async def _fetched(self) -> KeySet:
        async with asyncio.timeout(self._fetch_seconds):
            data = await self._fetch(self._url)
        if len(data) > MAX_JWKS_BYTES:
            raise ValueError("the JWKS is larger than 1 MiB")
        return parse_keys(data, self._algorithms)

    def _take(self, keys: KeySet) -> None:
        old, self._keys, self._failed = self._keys, keys, False
        self._stale_at = self._now() + FRESH_SECONDS
        self._next_at = self._now() + PAUSE_SECONDS
        if keys.lacks_some_of(old):
            self._withdrawn()
