"""uvicorn's HTTP protocol with the limits it lacks: header size, slow senders, readers that stop reading."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcpgateway.runtime import Sweep

STATUS_LINES = {
    400: b"HTTP/1.1 400 Bad Request\r\n",
    408: b"HTTP/1.1 408 Request Timeout\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
}


class Guard:
    """The limits, shared by all connections."""

    def __init__(self, sweep: Sweep, header_bytes: int, read_seconds: float, stalled_seconds: float) -> None:
        self.sweep = sweep
        self.header_bytes = header_bytes
        self.read_seconds = read_seconds
        self.stalled_seconds = stalled_seconds


class GuardedProtocol(HttpToolsProtocol):
    """A connection whose requests must arrive within `read_seconds` and whose answers must be taken.

    Slow senders are met by a deadline in the sweep, which costs a set entry per request and no timer.
    """

    def __init__(self, *args: Any, guard: Guard, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard = guard
        self._in_head = True
        self._head_bytes = 0
        self._stalled: _Stalled | None = None
        self.deadline = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.sweep.forget(self)
        self.resume_writing()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        self.deadline = self._guard.sweep.now() + self._guard.read_seconds
        self._guard.sweep.watch(self)

    def expire(self) -> None:
        """The request did not arrive in time."""
        if self.transport.is_closing():
            return
        if self._in_head and self._head_bytes == 0:
            self.transport.close()
        elif self.cycle is None or self.cycle.response_complete or self._in_head:
            self._refuse(408, b"the request did not arrive in time\n")
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self._guard.header_bytes and not self.transport.is_closing():
            self._refuse(431, b"the request's headers are too large\n")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_request()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if sum(len(name) + len(value) for name, value in self.headers) > self._guard.header_bytes:
            self._refuse(431, b"the request's headers are too large\n")
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._guard.sweep.forget(self)
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def _refuse(self, status: int, text: bytes) -> None:
        self._guard.sweep.forget(self)
        head = STATUS_LINES[status] + b"content-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(text)
        self.transport.write(head + text)
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = _Stalled(self.transport, self._guard.sweep.now() + self._guard.stalled_seconds)
        self._guard.sweep.watch(self._stalled)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._guard.sweep.forget(self._stalled)
            self._stalled = None
        super().resume_writing()


class _Stalled:
    """A client that stopped reading: its connection is cut when the deadline passes."""

    def __init__(self, transport: asyncio.Transport, deadline: float) -> None:
        self._transport = transport
        self.deadline = deadline

    def expire(self) -> None:
        self._transport.abort()
