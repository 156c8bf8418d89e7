"""The answer to one POST: plain JSON, unless something has to be said before; then an event stream."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial

from mcpgateway.downstream.event_store import EventStore, KeptStream
from mcpgateway.downstream.event_stream import KEEPALIVE_SECONDS, EventStream
from mcpgateway.downstream.exchange import JSON, Exchange, HeaderList
from mcpgateway.downstream.sessions import ClientSession, Outlet
from mcpgateway.errors import RpcError
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.runtime import Sweep

PLAIN = (JSON,)


class Reply:
    """What is said to a client while its call runs, and in the end. Each edge adds how its clients are asked.

    The ordinary call has no events: nothing but its answer is ever sent. The first event, or a long wait, turns the response
    into an event stream.
    """

    _questions: Collection[asyncio.Future[bytes]] = ()
    """Those that the client has not answered yet, where it is asked on the call's own stream."""

    def __init__(self, exchange: Exchange, sweep: Sweep) -> None:
        self._exchange = exchange
        self._sweep = sweep
        self._stream: EventStream | None = None
        self._outlet: Outlet | None = None
        self.deadline = sweep.now() + KEEPALIVE_SECONDS
        sweep.watch(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._exchange!r}{' streaming' if self._stream else ''}>"

    def streaming(self) -> Outlet:
        """Where to put what is said on the stream that the response has become; it becomes one now if it was none."""
        if self._outlet is None:
            self._sweep.forget(self)
            self._stream, self._outlet = self._begin()
            self._stream.start()
        return self._outlet

    def _begin(self) -> tuple[EventStream, Outlet]:
        stream = EventStream(self._exchange, self._sweep)
        return stream, stream

    def expire(self) -> None:
        """The call takes long: begin the response, so that nothing on the way takes the connection for dead."""
        self.streaming()
        if self._stream is not None:
            self._stream.expire()

    def notify(self, method: str, params: bytes) -> None:
        self.streaming().put(jsonrpc.notification(method, params))

    async def finish(self, status: int, bodies: Sequence[bytes], headers: HeaderList = (), *, batch: bool = False) -> None:
        """Send the answer, or the answers of a batch."""
        self._sweep.forget(self)
        if self._questions:
            # Clients read no further than the answer: what is withdrawn must be said before.
            for question in self._questions:
                question.cancel()
            await asyncio.sleep(0)
        if self._stream is None or self._outlet is None:
            body = b"[" + b",".join(bodies) + b"]" if batch else bodies[0]
            await self._exchange.respond(status, body, (JSON, *headers) if headers else PLAIN)
            return
        for body in bodies:
            self._outlet.put_surely(body)
        self._outlet.end()
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
    """A reply to a client that has a session: it can be asked on the call's own stream, and posts its answers. A `Channel`.

    Clients of a revision that has it are sent streams that `store` keeps, so that they can come back for the rest.
    """

    def __init__(self, session: ClientSession, exchange: Exchange, sweep: Sweep, store: EventStore) -> None:
        super().__init__(exchange, sweep)
        self._session = session
        self._store = store
        self._kept: KeptStream | None = None
        self._watching = False
        self._left = False
        self._questions: set[asyncio.Future[bytes]] = set()

    def _begin(self) -> tuple[EventStream, Outlet]:
        if not revisions.primes_streams(self._session.version):
            return super()._begin()
        self._kept = self._store.open(self._session)
        stream = EventStream(self._exchange, self._sweep, encode=self._kept.encode)
        self._kept.carry(stream)
        return stream, self._kept

    async def ask(self, method: str, params: bytes) -> bytes:
        """Ask the client on this call's own stream. A client that has gone away answers nothing: then it is refused."""
        put = self.streaming().put_surely
        self._watch()
        if self._left or (self._kept is not None and self._kept.absent):
            raise _gone()
        return await self._session.ask_on(put, method, params, self._questions)

    def _watch(self) -> None:
        """See when the client goes away; one that may come back is waited for."""
        if self._watching:
            return
        self._watching = True
        if self._kept is None or self._stream is None:
            self._exchange.when_left(self._client_left)
        else:
            self._kept.when_absent = self._fail_questions
            self._exchange.when_left(partial(self._kept.lost, self._stream))

    def pause(self, seconds: float) -> None:
        """The call's server has its answer fetched after so long: so do we, from clients that can."""
        if revisions.primes_streams(self._session.version):
            self.streaming()
            if self._kept is not None:
                self._kept.pause(seconds)

    def _client_left(self) -> None:
        self._left = True
        self._fail_questions()

    def _fail_questions(self) -> None:
        for question in self._questions:
            if not question.done():
                question.set_exception(_gone())

    async def abandon(self) -> None:
        if self._kept is not None:
            self._kept.end()
        await super().abandon()


def _gone() -> RpcError:
    return RpcError.of(-32603, "the client went away before it answered")
