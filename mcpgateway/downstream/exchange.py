"""One HTTP request and the way to answer it. The edges know no more of HTTP servers than this."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

from mcpgateway import runtime
from mcpgateway.errors import TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = dict[bytes, bytes]
HeaderList = Sequence[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")

DISCARDED_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is read to its end."""


class ClientLeft(Exception):
    """The client went away before its request was complete: there is nobody to answer."""


class Exchange(Protocol):
    """A request, of which the head has arrived, and its response, which is sent whole or as a stream."""

    method: str
    path: str
    headers: Headers
    """Names in lower case; of repeated ones the last."""
    header_list: HeaderList
    """All of them, in their order."""

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises TooLarge where it has more than `limit` bytes, ClientLeft."""

    async def respond(self, status: int, body: bytes, headers: HeaderList = (JSON,)) -> None:
        """A whole response at once. Raises RuntimeError where one has begun already."""

    async def begin(self, headers: HeaderList) -> None:
        """Begin a response of unknown length, with status 200."""

    async def write(self, piece: bytes) -> None:
        """Send a piece of it. Waits while the client is behind with reading."""

    async def end(self) -> None:
        """End it."""

    def when_left(self, tell: Callable[[], None]) -> None:
        """Call `tell` if the client goes away before its response is complete. For one listener."""


class AsgiExchange:
    """An exchange with an ASGI server between the client and us."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.header_list: HeaderList = scope["headers"]
        self.headers: Headers = dict(self.header_list)
        self._receive = receive
        self._send = send
        self._watching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<AsgiExchange {self.method} {self.path}>"

    async def body(self, limit: int) -> bytes:
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
            if b"expect" not in self.headers:
                await self._discard()
            raise too_large(limit)
        try:
            message = await self._receive()
        except RuntimeError as error:  # asked to go on sending, and gone already
            raise ClientLeft from error
        body: bytes = message.get("body", b"")
        while message.get("more_body") and len(body) <= limit:
            message = await self._receive()
            body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientLeft
        if len(body) > limit:
            if message.get("more_body"):
                await self._discard()
            raise too_large(limit)
        return body

    async def _discard(self) -> None:
        """Read the rest, within reason: who is still sending would meet a broken connection instead of the answer."""
        left = DISCARDED_BYTES
        while left > 0 and (message := await self._receive()).get("more_body"):
            left -= len(message.get("body", b""))
        if left > 0 and message["type"] == "http.disconnect":
            raise ClientLeft

    async def respond(self, status: int, body: bytes, headers: HeaderList = (JSON,)) -> None:
        length = (b"content-length", b"%d" % len(body))
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        self._stop_watching()
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, headers: HeaderList) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    async def write(self, piece: bytes) -> None:
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        self._stop_watching()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def when_left(self, tell: Callable[[], None]) -> None:
        self._watching = runtime.spawn(self._watch(tell), "watch whether a client leaves")

    async def _watch(self, tell: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        tell()

    def _stop_watching(self) -> None:
        # ASGI says of a complete response, too, that the client has gone.
        if self._watching is not None:
            self._watching.cancel()


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes (gateway.limits.body_bytes)")
