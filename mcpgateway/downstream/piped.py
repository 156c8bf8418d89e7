"""Clients whose messages come one after the other and whose answers all go out on one stream: HTTP+SSE, and stdio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Protocol

from mcpgateway import runtime
from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.conversing import MAX_BATCH, Conversing, Sent, described, id_of, new_id_of
from mcpgateway.downstream.envelope import is_modern
from mcpgateway.downstream.exchange import Exchange
from mcpgateway.downstream.line_exchange import LineExchange
from mcpgateway.downstream.problems import problem_of, stopped, unexpected
from mcpgateway.downstream.sessions import ClientSession, Outlet
from mcpgateway.errors import Busy, ClientError, GatewayError, InvalidRequest
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.runtime import Sweep
from mcpgateway.services.views import View

_log = logging.getLogger("mcpgateway.calls")

MAX_IN_FLIGHT = 1000
"""Requests of one client that may be in flight on one pipe: each of them runs in a task."""


class PipedSession(ClientSession):
    """A session that begins with its wire, before its client has said who it is, and that is over when the wire is."""

    answers_on_stream = True

    def __init__(self, principal: Principal, view: View, sweep: Sweep) -> None:
        super().__init__(principal, view, revisions.LEGACY[0], b"{}", b"{}", sweep)
        self.draining = False

    def drain(self) -> None:
        self.draining = True
        super().drain()


class Modern(Protocol):
    """The edge for requests of the generation without sessions."""

    async def post(self, exchange: Exchange, body: bytes, principal: Principal, view: View) -> None:
        """Answer a request."""

    def drain(self) -> None:
        """End the streams that clients listen on."""


class Pipe:
    """One client. What it sends is given to `take`, message by message; what it is sent goes to `outlet`.

    Requests run concurrently, each in a task; those that come while `initialize` is under way wait for it. Those of the
    modern generation go to `modern`, on wires that may carry both.
    """

    def __init__(self, conversing: Conversing, session: PipedSession, outlet: Outlet, modern: Modern | None = None) -> None:
        self.session = session
        self._modern = modern
        self._conversing = conversing
        self._outlet = outlet
        self._channel = _PipeChannel(session, outlet)
        self._handshake: asyncio.Task[None] | None = None
        self._batches = 0

    def __repr__(self) -> str:
        return f"<Pipe of {self.session!r}, {len(self.session.in_flight)} in flight>"

    def take(self, body: bytes, sent: Sent) -> None:
        """Act on a message, or on a batch of them. Requests are answered when they are done.

        Raises ClientError for what is neither, and for a request that cannot be answered under its id; Busy.
        """
        if body.lstrip()[:1] == b"[":
            self._take_batch(body, sent)
            return
        message = self._conversing.decode(body)
        if message.is_request and self._modern is not None and is_modern(sent.headers, body):
            exchange = LineExchange(message, body, self._outlet)
            self._start(message, self._modern.post(exchange, body, self.session.principal, self.session.view))
        elif message.is_request:
            self._begin(message, sent, self._outlet.put_surely)
        else:
            self._conversing.take(message, self.session)

    def _take_batch(self, body: bytes, sent: Sent) -> None:
        items = jsonrpc.decode_batch(body)
        if not revisions.has_batches(self.session.version):
            raise InvalidRequest(f"revision {self.session.version} has no batches: send one message at a time")
        if not 0 < len(items) <= MAX_BATCH:
            raise InvalidRequest(f"a batch must hold 1 to {MAX_BATCH} messages")
        answers: list[bytes] = []
        begun = [self._take_one(item, sent, answers.append) for item in items]
        tasks = [task for task in begun if task is not None]
        if tasks or answers:
            self._batches += 1
            runtime.spawn(self._say_together(tasks, answers), "answer a batch")

    def _take_one(self, item: bytes, sent: Sent, say: Callable[[bytes], None]) -> asyncio.Task[None] | None:
        """Act on one of a batch; what answers it, where it is a request. What is wrong with it is no matter of the others'."""
        id: object = None
        try:
            message = self._conversing.decode(item)
            id = message.id
            if message.is_request:
                return self._begin(message, sent, say)
            self._conversing.take(message, self.session)
        except ClientError as error:
            say(problem_of(error, id if isinstance(id, int | str) else None).body)
        return None

    async def _say_together(self, tasks: list[asyncio.Task[None]], answers: list[bytes]) -> None:
        if tasks:
            await asyncio.wait(tasks)
        self._batches -= 1
        if answers:
            self._outlet.put_surely(b"[" + b",".join(answers) + b"]")
        self._end_if_drained()

    def _begin(self, message: jsonrpc.Message, sent: Sent, say: Callable[[bytes], None]) -> asyncio.Task[None]:
        """Begin to answer a request; `say` is given the answer."""
        first = message.method == "initialize" and self._handshake is None
        answer = self._shake_hands if first else self._answer
        task = self._start(message, answer(message, sent, say))
        if first:
            self._handshake = task
        return task

    def _start(self, message: jsonrpc.Message, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run what answers a request. Raises InvalidRequest where its id cannot be answered to, Busy."""
        try:
            id = new_id_of(message, self.session)
            if len(self.session.in_flight) >= MAX_IN_FLIGHT:
                raise Busy(f"this client has {MAX_IN_FLIGHT} requests in flight; try again when some are answered")
        except ClientError:
            work.close()
            raise
        task = runtime.spawn(work, f"answer {str(message.method)[:100]}")
        # From now on, rather than from when the task runs: the next message may cancel it, or bear the same id.
        self.session.in_flight[id] = task
        task.add_done_callback(partial(self._over, id))
        return task

    def _over(self, id: jsonrpc.Id, task: asyncio.Task[None]) -> None:
        # Mostly it is gone already; not where the task was cancelled before it began. Another may bear its id by now.
        if self.session.in_flight.get(id) is task:
            del self.session.in_flight[id]
            self.session.cancelled.discard(id)
        if task.cancelled() and self.session.stopped:
            self._outlet.put_surely(stopped(id).body)
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self.session.draining and not self.session.busy and not self._batches:
            self._outlet.end()

    async def _shake_hands(self, message: jsonrpc.Message, sent: Sent, say: Callable[[bytes], None]) -> None:
        try:
            self.session.introduce(*described(message))
            say(await self._conversing.initialize(message, self.session, sent))
        except BaseException as error:
            self._handshake = None
            self._conversing.ended(self.session)  # what was opened upstream was opened for who the client said it is
            if not isinstance(error, Exception):
                raise
            say(self._failed(error, id_of(message)))
        else:
            self._conversing.begun(self.session)

    def _failed(self, error: Exception, id: jsonrpc.Id) -> bytes:
        """What is said of an `initialize` that failed."""
        if isinstance(error, GatewayError):
            return problem_of(error, id).body
        _log.error("initialize failed unexpectedly", exc_info=error)
        return unexpected(self._conversing.request_id({}), id).body

    async def _answer(self, message: jsonrpc.Message, sent: Sent, say: Callable[[bytes], None]) -> None:
        id = id_of(message)
        if self._handshake is not None and not self._handshake.done():
            await asyncio.wait([self._handshake])
        if self._handshake is None and message.method != "ping":
            say(problem_of(InvalidRequest("this session has not begun: send initialize first"), id).body)
        elif message.method == "initialize":
            say(problem_of(InvalidRequest("this session has begun already: initialize is sent once"), id).body)
        elif problem := await self._conversing.answer(message, id, self.session, sent, self._channel):
            say(problem.body)


class _PipeChannel:
    """The way back to the client for each of its calls: the one stream. A `Channel`."""

    def __init__(self, session: PipedSession, outlet: Outlet) -> None:
        self._session = session
        self._outlet = outlet

    def notify(self, method: str, params: bytes) -> None:
        self._outlet.put(jsonrpc.notification(method, params))

    async def ask(self, method: str, params: bytes) -> bytes:
        return await self._session.ask_on(self._outlet.put_surely, method, params, set())
