"""The limits that every client's connection is held to, whichever HTTP protocol class serves it."""

from __future__ import annotations

import asyncio

from mcpgateway.runtime import Sweep

LINGER_SECONDS = 2.0
"""How long a refused client may take to read why."""

NOT_HTTP = (400, b"this is not HTTP\n")
TOO_LATE = (408, b"the request did not arrive in time\n")
HEAD_TOO_LARGE = (431, b"the request's headers are too large\n")

STATUS_LINES = {
    400: b"HTTP/1.1 400 Bad Request\r\n",
    408: b"HTTP/1.1 408 Request Timeout\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
}

Refusal = tuple[int, bytes]
"""Status and text of an answer to what is no request."""


class Guard:
    """The limits, shared by all connections."""

    def __init__(self, sweep: Sweep, header_bytes: int, read_seconds: float, stalled_seconds: float) -> None:
        self.sweep = sweep
        self.header_bytes = header_bytes
        self.read_seconds = read_seconds
        self.stalled_seconds = stalled_seconds

    def __repr__(self) -> str:
        return f"<Guard {self.header_bytes} header bytes, {self.read_seconds:g} s to send, {self.stalled_seconds:g} s to read>"

    def watch_stalled(self, transport: asyncio.Transport) -> Stalled:
        """Cut a connection off whose client has stopped reading, unless it is forgotten before."""
        stalled = Stalled(transport, self.sweep.now() + self.stalled_seconds)
        self.sweep.watch(stalled)
        return stalled


class Stalled:
    """A client that stopped reading: its connection is cut when the deadline passes."""

    def __init__(self, transport: asyncio.Transport, deadline: float) -> None:
        self._transport = transport
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"<Stalled until {self.deadline:g}>"

    def expire(self) -> None:
        self._transport.abort()


def refuse(transport: asyncio.Transport, refusal: Refusal) -> bool:
    """Answer with a refusal and send no more. False if the connection was closed with it.

    It is not closed at once where that can be helped: what the client still sends would reset it, the answer unread.
    """
    status, text = refusal
    head = STATUS_LINES[status] + b"content-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(text)
    transport.write(head + text)
    if not transport.can_write_eof():
        transport.close()
        return False
    transport.write_eof()
    return True
