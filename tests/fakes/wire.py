"""A wire in memory: the test reads what a session posts, says what a server would, and ends it when it likes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from mcpgateway.errors import GatewayError, UpstreamError
from mcpgateway.protocol.call import HeaderBlock

Message = dict[str, Any]


class FakeWire:
    """Satisfies `upstream.owner.Wire`. Set `start_error` or `post_error`, clear `starts` or `closes`, to make it misbehave."""

    def __init__(self) -> None:
        self.start_error: UpstreamError | None = None
        self.post_error: UpstreamError | None = None
        self.starts = asyncio.Event()
        self.starts.set()
        self.closes = asyncio.Event()
        self.closes.set()
        self.closing = asyncio.Event()
        self.closed = 0
        self.posted: asyncio.Queue[tuple[Message, HeaderBlock]] = asyncio.Queue()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._hear: Callable[[bytes], None] | None = None

    def __repr__(self) -> str:
        return f"<FakeWire closed {self.closed} times>"

    async def start(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear
        await self.starts.wait()
        if self.start_error is not None:
            raise self.start_error

    async def run(self) -> str:
        return await self._ended

    def post(
        self, message: bytes, headers: HeaderBlock, timeout_seconds: float, done: Callable[[UpstreamError | None], None]
    ) -> None:
        self.posted.put_nowait((json.loads(message), headers))
        done(self.post_error)

    async def aclose(self) -> None:
        self.closing.set()
        await self.closes.wait()
        self.closed += 1

    def end(self, why: str | GatewayError) -> None:
        """The wire breaks, saying why or raising it."""
        if isinstance(why, str):
            self._ended.set_result(why)
        else:
            self._ended.set_exception(why)

    def say(self, **fields: Any) -> None:
        """A message from the server."""
        self.say_raw(json.dumps({"jsonrpc": "2.0", **fields}).encode())

    def say_raw(self, body: bytes) -> None:
        assert self._hear is not None
        self._hear(body)

    async def next(self) -> Message:
        """The next message the session posted."""
        return (await self.next_with_headers())[0]

    async def next_with_headers(self) -> tuple[Message, HeaderBlock]:
        async with asyncio.timeout(5):
            return await self.posted.get()
