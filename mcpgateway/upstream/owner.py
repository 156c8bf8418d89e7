"""Sessions that own a connection or a process: one task, the owner, holds the wire from its start to its end.

Callers never touch the wire's life: they hand in messages and wait for answers. So cancelling a caller, even while the
session opens, can neither tear the wire down under the others nor leave it behind.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import msgspec
from msgspec import Raw

from mcpgateway.errors import (
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    GatewayError,
    Incompatible,
    RpcError,
    SessionLost,
    UpstreamError,
    UpstreamTimeout,
)
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Call, Channel, HeaderBlock, NoChannel
from mcpgateway.protocol.modern import UNSUPPORTED_VERSION
from mcpgateway.runtime import Sweep, spawn
from mcpgateway.upstream.base import (
    Ask,
    Hello,
    Listener,
    Target,
    Welcome,
    answer_of,
    answer_question,
    decode_message,
    outgoing,
    with_token,
)
from mcpgateway.upstream.waiting import Waiting

NOTIFY_TIMEOUT_SECONDS = 30.0
"""How long a wire may take to get rid of a notification or of an answer of ours."""

MAX_QUESTIONS = 100
"""Questions of one server that may be open at once; each holds a task and, downstream, a client's attention."""

METHOD_NOT_FOUND = -32601

_log = logging.getLogger("mcpgateway.upstream.owner")
T = TypeVar("T")


class Wire(Protocol):
    """Whole messages both ways over one connection or process. Its owner alone starts, runs and closes it."""

    async def start(self, hear: Callable[[bytes], None]) -> None:
        """Connect. From now on `hear` gets every message that arrives. Raises UpstreamError."""

    async def run(self) -> str:
        """Return when the wire has ended by itself, saying why. Raises GatewayError, which says it as well."""

    def post(
        self, message: bytes, headers: HeaderBlock, timeout_seconds: float, done: Callable[[UpstreamError | None], None]
    ) -> None:
        """Send without waiting; `done` is called once, perhaps at once, with what went wrong or None."""

    async def aclose(self) -> None:
        """Give back everything the wire holds, also after a start that failed or was cancelled."""


class OwnedSession:
    """An upstream session on a wire of its own. Many requests run in it at once, told apart by our ids.

    What belongs to no call goes to `listener`. Where the protocol doesn't say to which call a question or a log message
    belongs, it belongs to the call in flight if that is the only one.
    """

    stateful = True
    welcome: Welcome

    def __init__(self, upstream: str, wire: Wire, sweep: Sweep) -> None:
        self.upstream = upstream
        self.closed = False
        self.listener: Listener | None = None
        self.own_headers: HeaderBlock = b""
        self._wire = wire
        self._sweep = sweep
        self._headers: HeaderBlock = b""
        self._last_id = 0
        self._waiting: dict[int, Waiting] = {}
        self._asides: dict[int, asyncio.Future[jsonrpc.Message | UpstreamError]] = {}
        self._questions: dict[jsonrpc.Id, asyncio.Task[bytes]] = {}
        self._why = "the session was closed"
        self._stopping = False
        self._opened: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        self._owner = spawn(self._own(), f"owner of a session with {upstream}")

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._waiting)} waiting"
        return f"<OwnedSession {self.upstream} {state}>"

    async def request(self, call: Call, channel: Channel) -> bytes:
        """See `UpstreamSession.request`. A session that had ended before raises SessionLost: the call did not run."""
        id = self.next_id()
        body, token = outgoing(call, id)
        return await self.carry(call, channel, id, body, token)

    async def carry(self, call: Call, channel: Channel, id: int, body: bytes, token: Raw | None) -> bytes:
        """The raw result of a call whose request has been put together already."""
        waiting = Waiting(self.upstream, id, channel, call.headers, call.timeout_seconds, token)
        try:
            return answer_of(self.upstream, await self._exchange(waiting, body))
        except asyncio.CancelledError:
            self._tell_cancelled(waiting, "the caller gave up")
            raise
        except UpstreamTimeout:
            self._tell_cancelled(waiting, "no answer in time")
            raise

    async def notify(self, method: str, params: bytes | None = None, headers: HeaderBlock = b"") -> None:
        self._refuse_if_closed()
        sent: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()
        self._wire.post(jsonrpc.notification(method, params), headers, NOTIFY_TIMEOUT_SECONDS, partial(_settle, sent))
        if (error := await sent) is not None:
            raise error

    def listen(self, headers: HeaderBlock = b"") -> None:
        """Nothing to do: the wire hears everything anyway, and answers carry the headers of the latest call."""

    async def hears(self) -> None:
        return

    def stop_listening(self) -> None:
        return

    async def handshake(self, hello: Hello, headers: HeaderBlock) -> None:
        """Wait for the wire and initialize the session. Raises GatewayError; the session is then to be closed."""
        await self.opened()
        self.own_headers = headers
        self.welcome = Welcome.decode(self.upstream, await self.ask("initialize", hello.params(), headers))
        await self.notify("notifications/initialized", headers=headers)

    async def opened(self) -> None:
        """Wait for the wire. Raises GatewayError where it could not be had."""
        if (error := await self._opened) is not None:
            raise error

    async def ask(self, method: str, params: bytes, headers: HeaderBlock = b"", timeout_seconds: float = math.inf) -> bytes:
        """The raw result of a request of the gateway's own. Raises RpcError, UpstreamError."""
        id = self.next_id()
        waiting = Waiting(self.upstream, id, NoChannel(), headers, timeout_seconds, None)
        return answer_of(self.upstream, await self._exchange(waiting, jsonrpc.request_raw(id, method, params)))

    async def ask_aside(self, id: int, body: bytes) -> jsonrpc.Message:
        """The response to a request that is no call of a client's, however long it takes. Raises UpstreamError.

        A server that cancels the request has answered it: then the response is an empty one.
        """
        self._refuse_if_closed()
        over: asyncio.Future[jsonrpc.Message | UpstreamError] = asyncio.get_running_loop().create_future()
        self._asides[id] = over
        try:
            self._say(body, self._headers)
            outcome = await over
        except asyncio.CancelledError:
            self._say_cancelled(id, "nobody listens any more", self._headers)
            raise
        finally:
            self._asides.pop(id, None)
        if isinstance(outcome, UpstreamError):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        # A turn of the loop later, because a task that is cancelled before its first step never gets to its clean-up.
        asyncio.get_running_loop().call_soon(self._stop)
        await asyncio.wait([self._owner])

    def _stop(self) -> None:
        # Once only: a second cancellation would break off the closing that the first began.
        if not self.closed and not self._stopping:
            self._stopping = True
            self._owner.cancel()

    def next_id(self) -> int:
        """An id that no request of this session has had."""
        self._last_id += 1
        return self._last_id

    def _refuse_if_closed(self) -> None:
        if self.closed:
            raise SessionLost(self.upstream, f"the session had ended: {self._why}")

    async def _exchange(self, waiting: Waiting, body: bytes) -> jsonrpc.Message:
        self._refuse_if_closed()
        self._headers = waiting.headers
        self._waiting[waiting.id] = waiting
        waiting.renew(self._sweep.now())
        self._sweep.watch(waiting)
        try:
            self._wire.post(body, waiting.headers, waiting.timeout_seconds, waiting.sent)
            outcome = await waiting.answer
        finally:
            self._forget(waiting)
        if isinstance(outcome, UpstreamError):
            raise outcome
        return outcome

    def _forget(self, waiting: Waiting) -> None:
        self._waiting.pop(waiting.id, None)
        self._sweep.forget(waiting)
        for task in list(waiting.questions):
            task.cancel()

    def _tell_cancelled(self, waiting: Waiting, reason: str) -> None:
        self._say_cancelled(waiting.id, reason, waiting.headers)

    def _say_cancelled(self, id: int, reason: str, headers: HeaderBlock) -> None:
        params = msgspec.json.encode({"requestId": id, "reason": reason})
        self._say(jsonrpc.notification("notifications/cancelled", params), headers)

    def _say(self, message: bytes, headers: HeaderBlock) -> None:
        if not self.closed:
            self._wire.post(message, headers, NOTIFY_TIMEOUT_SECONDS, self._said)

    def _said(self, error: UpstreamError | None) -> None:
        if error is not None:
            _log.info("a message of ours was lost: %s", error)

    async def _own(self) -> None:
        try:
            await self._wire.start(self._hear)
            _settle(self._opened, None)
            self._why = await self._wire.run()
        except GatewayError as error:
            self._why = str(error).removeprefix(f"upstream {self.upstream!r}: ")
            _settle(self._opened, error)
        finally:
            self._end()
            await self._wire.aclose()

    def _end(self) -> None:
        self.closed = True
        _settle(self._opened, ConnectionLost(self.upstream, self._why))
        for waiting in self._waiting.values():
            waiting.settle(ConnectionLost(self.upstream, self._why))
        self._waiting.clear()
        for over in self._asides.values():
            _settle(over, ConnectionLost(self.upstream, self._why))
        for task in list(self._questions.values()):
            task.cancel()

    def _hear(self, body: bytes) -> None:
        if self.closed:
            return
        try:
            for part in _messages(body):
                self._take(decode_message(self.upstream, part))
        except GatewayError as error:
            _log.warning("skipped what is no message: %s: %r", error, body[:200])
        except Exception:  # a listener's fault must not end the session for everybody else
            _log.exception("taking in a message of upstream %r failed", self.upstream)

    def _take(self, message: jsonrpc.Message) -> None:
        if message.is_request:
            self._take_question(message)
        elif message.is_notification:
            params = message.params if isinstance(message.params, dict) else {}
            self._take_notification(str(message.method), params)
        elif type(message.id) is int and (waiting := self._waiting.pop(message.id, None)) is not None:
            # Gone from the table at once: what comes in the same breath after the answer is no longer this call's.
            waiting.settle(message)
        elif type(message.id) is int and (over := self._asides.get(message.id)) is not None:
            _settle(over, message)

    def _only_call(self) -> Waiting | None:
        return next(iter(self._waiting.values())) if len(self._waiting) == 1 else None

    def _take_notification(self, method: str, params: jsonrpc.Params) -> None:
        if method == "notifications/progress":
            self._take_progress(params)
        elif method == "notifications/cancelled":
            self._withdraw(params)
        elif method == "notifications/message" and (waiting := self._only_call()) is not None:
            waiting.renew(self._sweep.now())
            waiting.channel.notify(method, msgspec.json.encode(params))
        elif self.listener is not None:
            self.listener.notified(method, msgspec.json.encode(params))

    def _take_progress(self, params: jsonrpc.Params) -> None:
        token = msgspec.json.decode(params.get("progressToken", Raw(b"null")))
        waiting = self._waiting.get(token) if type(token) is int else None
        if waiting is not None and waiting.token is not None:
            waiting.renew(self._sweep.now())
            waiting.channel.notify("notifications/progress", with_token(params, waiting.token))

    def _take_question(self, message: jsonrpc.Message) -> None:
        id = message.id if isinstance(message.id, int | str) else None
        if id is None or len(self._questions) >= MAX_QUESTIONS:
            self._say(jsonrpc.error(id, RpcError.of(-32600, "no id, or too many questions at once").error), self._headers)
            return
        # A ping is no sign that a call goes on, and takes no client's time.
        waiting = None if message.method == "ping" else self._only_call()
        task = spawn(self._answer(id, message, waiting), f"question of {self.upstream}")
        self._questions[id] = task
        if waiting is not None:
            waiting.questions.add(task)
            waiting.renew(self._sweep.now())
        task.add_done_callback(partial(self._answered, id, waiting))

    def _asks(self, waiting: Waiting | None) -> Ask | None:
        if waiting is not None:
            return waiting.channel.ask
        return self.listener.asked if self.listener is not None else None

    async def _answer(self, id: jsonrpc.Id, message: jsonrpc.Message, waiting: Waiting | None) -> bytes:
        try:
            return await answer_question(message, self._asks(waiting))
        except Exception:  # the server must have an answer, whatever went wrong on the way to the client
            _log.exception("a question of upstream %r could not be asked", self.upstream)
            return jsonrpc.error(id, RpcError.of(-32603, "the question could not be put to the client").error)

    def _answered(self, id: jsonrpc.Id, waiting: Waiting | None, task: asyncio.Task[bytes]) -> None:
        if waiting is not None:
            waiting.questions.discard(task)
            waiting.renew(self._sweep.now())
        if self._questions.get(id) is not task:
            return  # the server took it back
        del self._questions[id]
        self._say(_answer_in(task, id), self._headers if waiting is None else waiting.headers)

    def _withdraw(self, params: jsonrpc.Params) -> None:
        """The server takes a question back, for it wants no answer any more; or it ends a request of ours."""
        id = msgspec.json.decode(params.get("requestId", Raw(b"null")))
        if isinstance(id, int | str) and (task := self._questions.pop(id, None)) is not None:
            task.cancel()
        elif type(id) is int and (over := self._asides.get(id)) is not None:
            _settle(over, jsonrpc.Message(result=Raw(b"{}")))


async def open_session(target: Target, wire: Wire, hello: Hello, headers: HeaderBlock, sweep: Sweep) -> OwnedSession:
    """A session on `wire`, initialized within the target's time; see `open_owned`."""

    async def greet(session: OwnedSession) -> OwnedSession:
        await session.handshake(hello, headers)
        return session

    return await open_owned(target, wire, sweep, greet)


async def open_owned(target: Target, wire: Wire, sweep: Sweep, greet: Callable[[OwnedSession], Awaitable[T]]) -> T:
    """What `greet` makes, within the target's time, of a session that has just begun; the caller closes it.

    When anything fails or the caller gives up, nothing of the wire is left. Raises UpstreamError, never SessionLost or
    ConnectionLost for the handshake itself: no call has run, so it is ConnectFailed.
    """
    session = OwnedSession(target.name, wire, sweep)
    try:
        async with asyncio.timeout(target.open_timeout_seconds):
            return await greet(session)
    except BaseException as error:
        await session.aclose()
        if isinstance(error, Exception):
            raise _opening_error(target, error) from error
        raise


def _opening_error(target: Target, error: Exception) -> Exception:
    if isinstance(error, TimeoutError):
        return UpstreamTimeout(target.name, target.unanswered())
    if isinstance(error, ConnectionLost):
        return ConnectFailed(target.name, str(error).removeprefix(f"upstream {target.name!r}: "))
    return refused_handshake(target.name, error) if isinstance(error, RpcError) else error


def refused_handshake(upstream: str, error: RpcError) -> UpstreamError:
    """What an error in answer to initialize means."""
    # A server without the method, or without our revisions, is of the generation that has no handshake.
    kind = Incompatible if error.code in (METHOD_NOT_FOUND, UNSUPPORTED_VERSION) else BadAnswer
    return kind(upstream, f"it refused initialize with error {error.code}; its own log says why")


def _messages(body: bytes) -> list[bytes]:
    """One message, or those of a batch (2025-03-26 lets a server answer in one)."""
    return jsonrpc.decode_batch(body) if body[:1] == b"[" else [body]


def _answer_in(task: asyncio.Task[bytes], id: jsonrpc.Id) -> bytes:
    if not task.cancelled():
        return task.result()
    # The server's call is over, yet it may still stand there waiting for this: a refusal lets it go.
    return jsonrpc.error(id, RpcError.of(-32603, "the call this question belonged to is over").error)


def _settle(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)
