"""A request on a connection of our own HTTP protocol class, and the way to answer it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from mcpgateway.downstream.exchange import DISCARDED_BYTES, JSON, ClientLeft, HeaderList, Headers, too_large

UNWANTED_BYTES = 64 * 1024
"""How much of a body is kept that nobody has asked for yet; then the connection is not read until somebody does."""

COPIED_BYTES = 64 * 1024
"""Up to this size a body is joined to its head, for one write; a larger one would cost more to copy than a second write."""

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_NO_CONTENT = frozenset({204, 304})
_CLOSE_LINE = b"connection: close\r\n"
_name = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_value = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


@lru_cache(maxsize=256)
def head_of(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bool]:
    """The beginning of a response's head, and whether the connection ends with it.

    Raises RuntimeError for a header that would be read as something else: one with a line break, above all.
    """
    for name, value in headers:
        if not _name.fullmatch(name) or not _value.fullmatch(value):
            raise RuntimeError(f"a response must not have the header {name[:40]!r}: its name or value is none")
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return _STATUS_LINES[status] + lines, b"\r\nconnection: close\r\n" in b"\r\n" + lines.lower()


class Wire(Protocol):
    """What an exchange needs of its connection."""

    closing: bool
    """Whether this is the last exchange, so that the response says so."""
    writable: asyncio.Event | None
    """While the client is behind with reading: set when it has caught up, or has gone."""

    def write(self, *pieces: bytes) -> None:
        """Send, unless the client has gone."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def hear_leaving(self) -> None:
        """Go on reading, whatever waits already: only so it is seen when the client goes away."""

    def complete(self, exchange: HttpExchange) -> None:
        """A response is complete: it is the next request's turn, whatever the serving of this one still does."""


class HttpExchange:
    """See `exchange.Exchange`. The connection feeds it what arrives, and begins to serve the next when it is over."""

    __slots__ = (
        "_limit",
        "_news",
        "_pieces",
        "_size",
        "_tell_left",
        "_wire",
        "answered",
        "arrived",
        "begun",
        "chunked",
        "header_list",
        "headers",
        "keep_alive",
        "left",
        "method",
        "path",
    )

    def __init__(
        self,
        wire: Wire,
        method: str,
        path: str,
        headers: Headers,
        header_list: Sequence[tuple[bytes, bytes]],
        *,
        keep_alive: bool,
        chunked: bool,
    ) -> None:
        self.method = method
        self.path = path
        self.headers: Headers = headers
        self.header_list: HeaderList = header_list
        self.keep_alive = keep_alive
        self.chunked = chunked
        """Whether a response of unknown length is sent in chunks; otherwise its end is that of the connection."""
        self.arrived = False
        """The request is complete."""
        self.begun = False
        self.answered = False
        """The response is complete."""
        self.left = False
        self._wire = wire
        self._pieces: list[bytes] = []
        self._size = 0
        self._limit: int | None = None
        self._news: asyncio.Future[None] | None = None
        self._tell_left: Callable[[], None] | None = None

    def __repr__(self) -> str:
        state = "answered" if self.answered else "begun" if self.begun else "arrived" if self.arrived else "arriving"
        return f"<HttpExchange {self.method} {self.path[:100]} {state}>"

    # Called by the connection.

    def feed(self, piece: bytes) -> None:
        """A piece of the body."""
        if self.answered:
            return
        self._size += len(piece)
        if self._limit is None:
            self._pieces.append(piece)
            if self._size > UNWANTED_BYTES:
                self._wire.pause_reading()
        elif self._size <= self._limit:
            self._pieces.append(piece)
        elif self._size > self._limit + DISCARDED_BYTES:
            self._wake()

    def finish(self) -> None:
        """The request is complete."""
        self.arrived = True
        self._wake()

    def leave(self) -> None:
        """The client is gone."""
        if self.left:
            return
        self.left = True
        self._wake()
        if self._tell_left is not None and not self.answered:
            self._tell_left()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # Called by the edges.

    async def body(self, limit: int) -> bytes:
        if not self.arrived:
            await self._rest(limit)
        if self._size > limit:
            raise too_large(limit)
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    async def _rest(self, limit: int) -> None:
        """Wait for the rest of the body. What is over the limit is read, within reason, and not kept: who is still sending
        would meet a broken connection instead of the answer."""
        if int(self.headers.get(b"content-length", b"0")) > limit:
            if self._expects:
                raise too_large(limit)
            limit = 0
        if self._expects and not self._size:
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._limit = limit
        self._news = asyncio.get_running_loop().create_future()
        self._wire.resume_reading()
        if not self.left:
            await self._news
        if self.left and not self.arrived:
            raise ClientLeft

    @property
    def _expects(self) -> bool:
        """Whether the client waits to be asked for the body."""
        return self.headers.get(b"expect", b"").lower() == b"100-continue"

    async def respond(self, status: int, body: bytes, headers: HeaderList = (JSON,)) -> None:
        if self.begun:
            raise RuntimeError("the response has begun already")
        if self._wire.writable is not None:
            await self._wire.writable.wait()
        head = self._head(status, headers)
        self.begun = self.answered = True
        if status not in _NO_CONTENT:
            head += b"content-length: %d\r\n\r\n" % len(body)
        else:
            head += b"\r\n"
        if self.method == "HEAD":
            self._wire.write(head)
        elif len(body) <= COPIED_BYTES:
            self._wire.write(head + body)
        else:
            self._wire.write(head, body)
        self._wire.complete(self)

    def _head(self, status: int, headers: HeaderList) -> bytes:
        """The head but for how the body is framed. It says so if the connection ends with this response."""
        head, closes = head_of(status, tuple(headers))
        if not self.arrived and self._expects and not self._size:
            # Nobody knows whether what comes next is the body after all, or another request.
            self.keep_alive = False
        if closes:
            self.keep_alive = False
        elif not self.keep_alive or self._wire.closing:
            head += _CLOSE_LINE
        return head

    async def begin(self, headers: HeaderList) -> None:
        if self.begun:
            raise RuntimeError("the response has begun already")
        head = self._head(200, headers)
        self.begun = True
        self._wire.write(head + (b"transfer-encoding: chunked\r\n\r\n" if self.chunked else b"\r\n"))

    async def write(self, piece: bytes) -> None:
        if self._wire.writable is not None:
            await self._wire.writable.wait()
        if not self.chunked:
            self._wire.write(piece)
        elif len(piece) > COPIED_BYTES:
            self._wire.write(b"%x\r\n" % len(piece), piece, b"\r\n")
        elif piece:
            self._wire.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    async def end(self) -> None:
        self.answered = True
        if self.chunked:
            self._wire.write(b"0\r\n\r\n")
        self._wire.complete(self)

    def when_left(self, tell: Callable[[], None]) -> None:
        if self.left:
            asyncio.get_running_loop().call_soon(tell)
        elif not self.answered:  # else the connection is another exchange's by now
            self._tell_left = tell
            self._wire.hear_leaving()
