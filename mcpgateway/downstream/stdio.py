"""stdio downstream: the one client that started this process, a message on each line both ways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mcpgateway import runtime
from mcpgateway.auth.principals import ANONYMOUS
from mcpgateway.downstream.conversing import Conversing, NoHeaders
from mcpgateway.downstream.piped import Modern, Pipe, PipedSession
from mcpgateway.downstream.problems import problem_of
from mcpgateway.downstream.standard_io import Lines, LineWriter
from mcpgateway.errors import ClientError, TooLarge
from mcpgateway.protocol import jsonrpc
from mcpgateway.runtime import Sweep
from mcpgateway.services.views import View

_log = logging.getLogger("mcpgateway.stdio")

LAST_ANSWERS_SECONDS = 1.0
"""How long calls in flight may still take when we are told to end."""


class Stdio:
    """The edge of that client, who is the anonymous principal: whoever starts a process may use it.

    What it sends is read once `ready` returns. When it has said all it had to say, calls in flight have `drain_seconds`
    to finish.
    """

    def __init__(
        self,
        conversing: Conversing,
        modern: Modern,
        view: View,
        sweep: Sweep,
        lines: Lines,
        out: LineWriter,
        ready: Callable[[], Awaitable[None]],
        drain_seconds: float,
    ) -> None:
        self._sessions = conversing.sessions
        self._session = PipedSession(ANONYMOUS, view, sweep)
        self._lines = lines
        self._out = out
        self._modern = modern
        self._pipe = Pipe(conversing, self._session, out, modern)
        self._sent = NoHeaders()
        self._ready = ready
        self._drain_seconds = drain_seconds
        self._told_to_end = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Stdio {self._pipe!r}>"

    async def serve(self) -> None:
        """Serve until the client leaves, `end` is called, or the session ends."""
        self._sessions.add(self._session)
        self._session.attach(self._out)
        reading = runtime.spawn(self._read(), "read standard input")
        writing = asyncio.ensure_future(self._out.ended())
        told = asyncio.ensure_future(self._told_to_end.wait())
        try:
            await asyncio.wait([reading, writing, told], return_when=asyncio.FIRST_COMPLETED)
            self._modern.drain()
            self._session.drain()
            await asyncio.wait([writing, told], timeout=self._drain_seconds, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([writing], timeout=LAST_ANSWERS_SECONDS)
        finally:
            told.cancel()
            writing.cancel()
            await runtime.end_task(reading)
            self._sessions.end(self._session)
            await self._out.cut()

    def end(self) -> None:
        """Begin nothing more; what is in flight may shortly finish."""
        self._told_to_end.set()

    async def _read(self) -> None:
        await self._ready()
        try:
            async for line in self._lines:
                self._take(line)
                await self._out.room()
        except OSError as error:
            _log.warning("standard input cannot be read: %s", error)

    def _take(self, line: bytes | TooLarge) -> None:
        try:
            if isinstance(line, TooLarge):
                raise line
            if line.strip():
                self._pipe.take(line, self._sent)
        except ClientError as error:
            _log.info("a message was refused: %s", error)
            self._out.put_surely(problem_of(error, self._id_in(line)).body)

    def _id_in(self, line: bytes | TooLarge) -> jsonrpc.Id | None:
        """The id under which a refusal reaches whoever waits for it; None where there is none, or another waits under it."""
        try:
            id = jsonrpc.decode(line).id if isinstance(line, bytes) else None
        except ClientError:
            return None
        return id if isinstance(id, int | str) and id not in self._session.in_flight else None
