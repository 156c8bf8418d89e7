"""One request to an upstream and its response as whoever sent it sees it: a body, or a stream that is read in pieces."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from mcpgateway.errors import BadAnswer, UpstreamError, UpstreamTimeout
from mcpgateway.protocol import sse
from mcpgateway.runtime import Sweep

MAX_BODY_BYTES = 64 * 1024 * 1024
BUFFERED_CHUNKS_BYTES = 1024 * 1024
LAST_BYTES_SECONDS = 1.0
"""How long a stream of which nothing more is wanted may take to end, before it costs its connection."""
EVENT_STREAM = b"text/event-stream"


class Line(Protocol):
    """What an exchange needs of its connection."""

    loop: asyncio.AbstractEventLoop

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None: ...

    def abort(self) -> None:
        """Close at once; an exchange under way is lost."""


class Exchange:
    """One request and its response (`upstream.http.Response`).

    `future` is resolved when the body is complete; of an event stream with its first piece, or, where it does not answer a
    POST, with its head.
    """

    __slots__ = (
        "_body",
        "_buffered",
        "_connection",
        "_discarding",
        "_ended",
        "_error",
        "_more",
        "_name",
        "_sweep",
        "body",
        "deadline",
        "future",
        "headers",
        "keep_alive",
        "status",
        "streaming",
        "timeout_seconds",
        "whole",
    )

    def __init__(self, connection: Line, name: str, timeout_seconds: float, sweep: Sweep, *, whole: bool) -> None:
        self._connection: Line | None = connection
        self._name = name
        self._sweep = sweep
        self._body: list[bytes] = []
        self._buffered = 0
        self._discarding = False
        self._ended = False
        self._error: UpstreamError | None = None
        self._more: asyncio.Future[None] | None = None
        # Resolved with nothing: a future that held its exchange would keep the body until garbage is collected.
        self.future: asyncio.Future[None] = connection.loop.create_future()
        self.timeout_seconds = timeout_seconds
        self.whole = whole
        """Whether a stream that turns out to be one answer, before anybody has read of it, is given as a plain body."""
        self.deadline = sweep.now() + timeout_seconds
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.streaming = False
        self.keep_alive = False

    def __repr__(self) -> str:
        return f"<Exchange with {self._name} {self.status or 'waiting'}{' streaming' if self.streaming else ''}>"

    # Called by the connection.

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.headers = headers
        if b"content-encoding" in headers and status < 300 and headers[b"content-encoding"].lower() != b"identity":
            raise BadAnswer(
                self._name, f"its answer is compressed ({_shown(headers[b'content-encoding'])}), which nobody asked for"
            )
        if headers.get(b"content-type", b"")[:17].lower() == EVENT_STREAM:
            self.streaming = True
            if not self.whole:
                self._resolve()

    def data(self, chunk: bytes) -> None:
        if self._discarding:
            return
        self._body.append(chunk)
        self._buffered += len(chunk)
        if self.streaming:
            if self._paused and self._connection is not None:
                self._connection.pause()
                # The reader is slow, not the upstream: silence counts from when it is heard again.
                self.deadline = math.inf
            self._resolve()
            self._wake()
        elif self._buffered > MAX_BODY_BYTES:
            raise BadAnswer(self._name, f"its answer is larger than {MAX_BODY_BYTES} bytes")

    def heard(self) -> None:
        """Something came, and it is not all: the time until the next sign of life begins anew."""
        if not self._discarding and not (self.streaming and self._paused):
            self.deadline = self._sweep.now() + self.timeout_seconds

    def complete(self) -> None:
        """The body ended in order."""
        self._ended = True
        self._sweep.forget(self)
        connection, self._connection = self._connection, None
        if self.streaming:
            if self._paused and connection is not None:
                connection.resume()
            if self.whole:
                self._unwrap()
        if not self.streaming:
            self.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body.clear()
        self._resolve()
        self._wake()

    def _unwrap(self) -> None:
        """Make a plain body of a stream of which nobody has read anything yet, if it holds one answer and nothing else."""
        answer = sse.lone_answer(b"".join(self._body)) if self.status == 200 else None
        if answer is not None:
            self._body = [answer]
            self.streaming = False

    def failed(self, error: UpstreamError) -> None:
        """It broke. The first error stands: what follows from giving up says less."""
        if self._ended:
            return
        self._error = error
        self._ended = True
        self._connection = None
        self._sweep.forget(self)
        if not self.future.done():
            self.future.set_exception(error)
        self._wake()

    def _resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    @property
    def _paused(self) -> bool:
        return self._buffered > BUFFERED_CHUNKS_BYTES

    # Called by the sweep.

    def expire(self) -> None:
        connection = self._connection
        self.failed(UpstreamTimeout(self._name, f"no sign of life for {self.timeout_seconds:g} s; the request may have run"))
        if connection is not None:
            connection.abort()

    # Called by whoever reads the response.

    async def chunk(self) -> bytes:
        """The next piece of a stream, b'' at its orderly end. Raises what broke it."""
        self.whole = False
        while not self._body:
            if self._ended:
                if self._error is not None:
                    raise self._error
                self.close()
                return b""
            self._more = asyncio.get_running_loop().create_future()
            try:
                await self._more
            finally:
                self._more = None
        piece = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        if self._paused and self._connection is not None:
            self.deadline = self._sweep.now() + self.timeout_seconds
            self._connection.resume()
        self._buffered = 0
        return piece

    def set_timeout(self, timeout_seconds: float) -> None:
        """Set the longest silence, from now on."""
        self.timeout_seconds = timeout_seconds
        self.heard()

    def release(self) -> None:
        """Let a stream come to its end unheard. If it soon does, its connection is kept."""
        if self._ended or self._connection is None:
            self.close()
            return
        self._discarding = True
        self._body.clear()
        if self._paused:
            self._connection.resume()
        self._buffered = 0
        self.deadline = self._sweep.now() + LAST_BYTES_SECONDS

    def close(self) -> None:
        """Give up what is left. A stream that has not ended takes its connection with it."""
        self._sweep.forget(self)
        connection, self._connection = self._connection, None
        if connection is not None and not self._ended:
            self._ended = True
            connection.abort()


def _shown(value: bytes) -> str:
    """A header's value as it may stand in an error."""
    return value[:40].decode("latin-1")
