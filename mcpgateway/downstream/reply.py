"""The answer to one POST: plain JSON, unless something has to be said before; then an event stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mcpgateway import runtime
from mcpgateway.downstream.event_stream import KEEPALIVE_SECONDS, EventStream, Receive, Send
from mcpgateway.downstream.sessions import ClientSession
from mcpgateway.errors import RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.runtime import Sweep

JSON = (b"content-type", b"application/json")


async def respond(send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = (JSON,)) -> None:
    """A whole response at once."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


class Reply:
    """The way back to a client while its call runs; a `Channel`.

    The ordinary call has no events: nothing but its answer is ever sent. The first event, or a long wait, turns the response
    into an event stream.
    """

    def __init__(self, session: ClientSession, send: Send, receive: Receive, sweep: Sweep) -> None:
        self._session = session
        self._send = send
        self._receive = receive
        self._sweep = sweep
        self._stream: EventStream | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._left = False
        self._questions: set[asyncio.Future[bytes]] = set()
        self.deadline = sweep.now() + KEEPALIVE_SECONDS
        sweep.watch(self)

    def __repr__(self) -> str:
        return f"<Reply to {self._session!r}{' streaming' if self._stream else ''}>"

    def _streaming(self) -> EventStream:
        if self._stream is None:
            self._sweep.forget(self)
            self._stream = EventStream(self._send, self._sweep)
            self._stream.start()
        return self._stream

    def expire(self) -> None:
        """The call takes long: begin the response, so that nothing on the way takes the connection for dead."""
        self._streaming().expire()

    def notify(self, method: str, params: bytes) -> None:
        self._streaming().put(jsonrpc.notification(method, params))

    async def ask(self, method: str, params: bytes) -> bytes:
        """Ask the client on this call's own stream. A client that has gone away answers nothing: then it is refused."""
        if self._left:
            raise _gone()
        put = self._streaming().put_surely
        if self._leaving is None:
            self._leaving = runtime.spawn(self._watch_leaving(), "watch a client that is asked")
        return await self._session.ask_on(put, method, params, self._questions)

    async def _watch_leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        for question in self._questions:
            if not question.done():
                question.set_exception(_gone())

    async def finish(
        self, status: int, bodies: Sequence[bytes], headers: Sequence[tuple[bytes, bytes]] = (), *, batch: bool = False
    ) -> None:
        """Send the answer, or the answers of a batch."""
        self._sweep.forget(self)
        if self._stream is None:
            body = b"[" + b",".join(bodies) + b"]" if batch else bodies[0]
            await respond(self._send, status, body, (JSON, *headers))
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
        await runtime.end_task(self._leaving)


def _gone() -> RpcError:
    return RpcError.of(-32603, "the client went away before it answered")
