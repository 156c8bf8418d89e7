"""The answer to one POST: plain JSON, unless something has to be said before; then an event stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mcpgateway.downstream.event_stream import KEEPALIVE_SECONDS, EventStream
from mcpgateway.downstream.exchange import JSON, Exchange, HeaderList
from mcpgateway.downstream.sessions import ClientSession
from mcpgateway.errors import RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.runtime import Sweep


class Reply:
    """What is said to a client while its call runs, and in the end. Each edge adds how its clients are asked.

    The ordinary call has no events: nothing but its answer is ever sent. The first event, or a long wait, turns the response
    into an event stream.
    """

    def __init__(self, exchange: Exchange, sweep: Sweep) -> None:
        self._exchange = exchange
        self._sweep = sweep
        self._stream: EventStream | None = None
        self.deadline = sweep.now() + KEEPALIVE_SECONDS
        sweep.watch(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._exchange!r}{' streaming' if self._stream else ''}>"

    def streaming(self) -> EventStream:
        """The stream that the response has become; it becomes one now if it was none."""
        if self._stream is None:
            self._sweep.forget(self)
            self._stream = EventStream(self._exchange, self._sweep)
            self._stream.start()
        return self._stream

    def expire(self) -> None:
        """The call takes long: begin the response, so that nothing on the way takes the connection for dead."""
        self.streaming().expire()

    def notify(self, method: str, params: bytes) -> None:
        self.streaming().put(jsonrpc.notification(method, params))

    async def finish(self, status: int, bodies: Sequence[bytes], headers: HeaderList = (), *, batch: bool = False) -> None:
        """Send the answer, or the answers of a batch."""
        self._sweep.forget(self)
        if self._stream is None:
            body = b"[" + b",".join(bodies) + b"]" if batch else bodies[0]
            await self._exchange.respond(status, body, (JSON, *headers))
            return
        for body in bodies:
            self._stream.put_surely(body)
        self._stream.end()
        try:
            await self._stream.ended()
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Nothing more will be said."""
        self._sweep.forget(self)
        if self._stream is not None:
            await self._stream.cut()


class SessionReply(Reply):
    """A reply to a client that has a session: it can be asked on the call's own stream, and posts its answers. A `Channel`."""

    def __init__(self, session: ClientSession, exchange: Exchange, sweep: Sweep) -> None:
        super().__init__(exchange, sweep)
        self._session = session
        self._watching = False
        self._left = False
        self._questions: set[asyncio.Future[bytes]] = set()

    async def ask(self, method: str, params: bytes) -> bytes:
        """Ask the client on this call's own stream. A client that has gone away answers nothing: then it is refused."""
        if self._left:
            raise _gone()
        put = self.streaming().put_surely
        if not self._watching:
            self._watching = True
            self._exchange.when_left(self._client_left)
        return await self._session.ask_on(put, method, params, self._questions)

    def _client_left(self) -> None:
        self._left = True
        for question in self._questions:
            if not question.done():
                question.set_exception(_gone())


def _gone() -> RpcError:
    return RpcError.of(-32603, "the client went away before it answered")
