"""Writes server-sent events to one client: in order, bounded, kept alive."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mcpgateway import runtime
from mcpgateway.downstream.exchange import Exchange
from mcpgateway.protocol import sse
from mcpgateway.runtime import Sweep

KEEPALIVE_SECONDS = 15.0
QUEUED_EVENTS = 1000
QUEUED_BYTES = 8 * 1024 * 1024

HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """One response of server-sent events, written by a task of its own, so that nobody waits for a slow reader.

    A reader who is `QUEUED_EVENTS` or `QUEUED_BYTES` behind loses what comes after, except answers and questions; one who
    stops reading is cut off by the HTTP protocol. `encode` makes the event of a message.
    """

    def __init__(
        self,
        exchange: Exchange,
        sweep: Sweep,
        headers: list[tuple[bytes, bytes]] | None = None,
        encode: Callable[[bytes], bytes] = sse.encode,
    ) -> None:
        self._exchange = exchange
        self._sweep = sweep
        self._headers = HEADERS + (headers or [])
        self._encode = encode
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._more = asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[None] | None = None
        self.deadline = 0.0
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<EventStream {len(self._queue)} queued{' ending' if self._ending else ''}>"

    def start(self) -> None:
        """Begin the response."""
        self._task = runtime.spawn(self._write(), "write an event stream")
        self._again()

    @property
    def behind(self) -> bool:
        """Whether the reader is too far behind to be sent what may be lost."""
        return len(self._queue) >= QUEUED_EVENTS or self._queued_bytes >= QUEUED_BYTES

    def put(self, data: bytes) -> None:
        """Send a message that may be lost on a reader who is too far behind. Never blocks."""
        if self.behind:
            self.dropped += 1
            return
        self.put_surely(data)

    def put_surely(self, data: bytes) -> None:
        """Send a message that somebody waits for. Never blocks."""
        self.send(self._encode(data))

    def send(self, event: bytes) -> None:
        """Send an event as it is. Never blocks."""
        self._queued_bytes += len(event)
        self._queue.append(event)
        self._more.set()

    def _again(self) -> None:
        self.deadline = self._sweep.now() + KEEPALIVE_SECONDS
        self._sweep.watch(self)

    def expire(self) -> None:
        """Time for a sign of life."""
        if not self._ending:
            if not self._queue:
                self._queue.append(sse.KEEPALIVE)
                self._more.set()
            self._again()

    def end(self) -> None:
        """No more events: the response ends after those that are queued."""
        self._ending = True
        self._sweep.forget(self)
        self._more.set()

    def end_at_once(self) -> None:
        """Nobody reads any more."""
        self.end()
        if self._task is not None:
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until all is written."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def cut(self) -> None:
        """End at once."""
        self.end()
        await runtime.end_task(self._task)

    async def _write(self) -> None:
        await self._exchange.begin(self._headers)
        while True:
            await self._more.wait()
            self._more.clear()
            if self._queue:
                body = b"".join(self._queue)
                self._queue.clear()
                self._queued_bytes = 0
                await self._exchange.write(body)
            elif self._ending:
                await self._exchange.end()
                return
            if self._ending:
                self._more.set()
