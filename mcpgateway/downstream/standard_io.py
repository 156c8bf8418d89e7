"""Standard input and output as an event loop sees them: lines in, lines out, and nobody held up by the other end.

Threads of their own read and write, because a loop cannot wait for files, nor for pipes on every system.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeVar

from mcpgateway import runtime
from mcpgateway.errors import TooLarge

CHUNK_BYTES = 64 * 1024
QUEUED_LINES = 1000
QUEUED_BYTES = 8 * 1024 * 1024

T = TypeVar("T")


class _Worker:
    """A thread that does one thing after the other. It keeps no program from ending, whatever it waits for."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` gives, or raises of OSError. Where the waiter is cancelled, the work goes on, unheard."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(lambda: self._do(work, future))
        return await future

    def close(self) -> None:
        """End the thread, once what it is doing is done."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except RuntimeError:
                return  # the loop is closed: nobody waits for anything any more

    def _do(self, work: Callable[[], T], future: asyncio.Future[T]) -> None:
        try:
            result = work()
        except OSError as error:
            self._loop.call_soon_threadsafe(_settle, future, future.set_exception, error)
        else:
            self._loop.call_soon_threadsafe(_settle, future, future.set_result, result)


def _settle(future: asyncio.Future[Any], give: Callable[[Any], None], value: object) -> None:
    if not future.done():
        give(value)


class Lines:
    """The lines that come in at a file descriptor, of at most `limit` bytes each."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._worker = _Worker("standard input")
        self._buffer = bytearray()
        self._skipping = False

    def __repr__(self) -> str:
        return f"<Lines of {self._descriptor}, {len(self._buffer)} bytes buffered>"

    async def __aiter__(self) -> AsyncIterator[bytes | TooLarge]:
        """Each line without its end, or an error in place of one that is too long; the last one may lack its end.

        Raises OSError.
        """
        try:
            while chunk := await self._worker.do(partial(os.read, self._descriptor, CHUNK_BYTES)):
                *ended, rest = chunk.split(b"\n")
                for part in ended:
                    yield self._line(part)
                self._add(rest)
        finally:
            self._worker.close()
        if self._buffer or self._skipping:
            yield self._line(b"")

    def _add(self, part: bytes) -> None:
        self._skipping = self._skipping or len(self._buffer) + len(part) > self._limit
        if self._skipping:
            self._buffer.clear()
        else:
            self._buffer += part

    def _line(self, last_part: bytes) -> bytes | TooLarge:
        self._add(last_part)
        line, skipped = bytes(self._buffer), self._skipping
        self._buffer.clear()
        self._skipping = False
        return TooLarge(f"the message is larger than {self._limit} bytes (gateway.limits.body_bytes)") if skipped else line


class LineWriter:
    """Writes messages to a file descriptor, one on each line. An `Outlet`; it ends by itself when nobody reads any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._worker = _Worker("standard output")
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ending = False
        self._task = runtime.spawn(self._write(), "write to standard output")
        self._task.add_done_callback(lambda _: self._worker.close())

    def __repr__(self) -> str:
        return f"<LineWriter to {self._descriptor}, {len(self._queue)} queued{' ending' if self._ending else ''}>"

    def put(self, data: bytes) -> None:
        if self._room.is_set():
            self.put_surely(data)

    def put_surely(self, data: bytes) -> None:
        # Between the tokens of JSON a line may end; within strings none can.
        line = data.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"
        self._queue.append(line)
        self._queued_bytes += len(line)
        if len(self._queue) >= QUEUED_LINES or self._queued_bytes >= QUEUED_BYTES:
            self._room.clear()
        self._more.set()

    def end(self) -> None:
        self._ending = True
        self._more.set()

    async def room(self) -> None:
        """Wait while the reader is too far behind."""
        await self._room.wait()

    async def ended(self) -> None:
        """Wait until all is written, or nobody reads any more."""
        await asyncio.wait([self._task])

    async def cut(self) -> None:
        """End at once."""
        await runtime.end_task(self._task)

    async def _write(self) -> None:
        while self._queue or not self._ending:
            await self._more.wait()
            self._more.clear()
            lines = b"".join(self._queue)
            self._queue.clear()
            self._queued_bytes = 0
            self._room.set()
            try:
                await self._worker.do(partial(_write_all, self._descriptor, lines))
            except OSError:
                return
            if self._ending:
                self._more.set()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
