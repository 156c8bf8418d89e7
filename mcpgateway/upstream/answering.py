"""The event stream that answers one POST of a legacy server, and what it says and asks on the way.

A server may end that stream before its answer, and have the rest fetched later (2025-11-25): nobody above notices.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.errors import BadAnswer, ConnectionLost, GatewayError, UpstreamError, UpstreamTimeout
from mcpgateway.protocol import jsonrpc, sse
from mcpgateway.protocol.call import Call, Channel, HeaderBlock
from mcpgateway.upstream.base import Ask, Listener, answer_of, answer_question, decode_message, with_token
from mcpgateway.upstream.events import first_of
from mcpgateway.upstream.http import Response

_log = logging.getLogger("mcpgateway.upstream")

MAX_QUESTIONS = 100
"""Questions that may be open on one stream; each holds a task and, downstream, a client's attention."""
MAX_EVENT_ID_BYTES = 1024
SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0
MAX_BREAKS = 5
"""How often in a row a stream may break off without having said anything."""
USUAL_PAUSE_SECONDS = 1.0
"""Before a stream is asked for again of a server that does not say when."""


class Speaker(Protocol):
    """The session that streams belong to."""

    upstream: str
    listener: Listener | None

    async def post(self, body: bytes, headers: HeaderBlock) -> None:
        """Send a message that has no answer. Raises UpstreamError."""

    async def get(self, headers: HeaderBlock, last_event_id: bytes | None = None) -> Response:
        """Open a GET stream, continuing after `last_event_id` if given. Raises UpstreamError."""

    def distrust(self) -> None:
        """An answer may still come where another is expected: what connected so far is not used again."""


class Position:
    """Where a stream is to be continued, and after which pause."""

    def __init__(self) -> None:
        self.last_id: bytes | None = None
        self.pause_seconds = USUAL_PAUSE_SECONDS

    def __repr__(self) -> str:
        return f"<Position {self.last_id!r}, again after {self.pause_seconds:g} s>"

    def heard(self, event: sse.Event) -> None:
        if event.id is not None and len(event.id) <= MAX_EVENT_ID_BYTES:
            self.last_id = event.id or None
        if event.retry_ms is not None:
            self.pause_seconds = min(max(event.retry_ms / 1000, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)


class Questions:
    """What the server asks on one stream, each question answered by a task of its own.

    `when_none` is called when the last one is over.
    """

    def __init__(self, session: Speaker, headers: HeaderBlock, when_none: Callable[[], None]) -> None:
        self._session = session
        self._headers = headers
        self._when_none = when_none
        self._tasks: dict[object, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Questions of {self._session.upstream}, {len(self._tasks)} open>"

    def put(self, message: jsonrpc.Message, ask: Ask | None) -> None:
        """Ask, and post the answer. Raises BadAnswer where the server asks too much."""
        if len(self._tasks) >= MAX_QUESTIONS or message.id in self._tasks:
            raise BadAnswer(self._session.upstream, "it asks one question twice, or too many at once")
        task = runtime.spawn(self._answer(message, ask), f"question of {self._session.upstream}")
        self._tasks[message.id] = task
        task.add_done_callback(lambda done: self._over(message.id))

    async def _answer(self, message: jsonrpc.Message, ask: Ask | None) -> None:
        try:
            await self._session.post(await answer_question(message, ask), self._headers)
        except UpstreamError as error:
            _log.info("answering a question: %s", error)

    def _over(self, id: object) -> None:
        del self._tasks[id]
        if not self._tasks:
            self._when_none()

    def withdraw(self, message: jsonrpc.Message) -> None:
        """The server cancelled a question of its own."""
        try:
            id = msgspec.json.decode(params_of(message).get("requestId", b"null"))
        except (msgspec.DecodeError, RecursionError):
            return
        task = self._tasks.get(id) if isinstance(id, int | str) else None
        if task is not None:
            task.cancel()

    def end(self) -> None:
        """Withdraw them all."""
        self._when_none = nothing
        for task in tuple(self._tasks.values()):
            task.cancel()


def nothing() -> None:
    return


class Answer:
    """Reads the event stream that answers one POST: notifications and questions on the way, the response at the end."""

    def __init__(self, session: Speaker, id: int, token: Raw | None, call: Call, channel: Channel) -> None:
        self._session = session
        self._id = id
        self._token = token
        self._call = call
        self._channel = channel
        self._position = Position()
        self._questions = Questions(session, call.headers, self._listen_strictly)
        self._asked = False
        """Whether a person may have to answer: the upstream's silence meanwhile is ours, not its."""
        self._response: Response | None = None
        self._now = asyncio.get_running_loop().time
        self._heard_at = self._now()
        self._breaks = 0
        """How often the connection broke since a message came."""

    def __repr__(self) -> str:
        return f"<Answer of {self._session.upstream} to {self._id}>"

    async def read(self, response: Response) -> bytes:
        """The raw result. A stream that ends before it, and cannot be continued, is a loss: the request may have run."""
        try:
            message = await self._read(response)
            while message is None:
                message = await self._read(await self._continued())
        finally:
            self._questions.end()
        return answer_of(self._session.upstream, message)

    async def _read(self, response: Response) -> jsonrpc.Message | None:
        """The response, if it is on this stream; None where the stream ended before, and can be continued."""
        self._response = response
        try:
            message = await first_of(self._session.upstream, response, self._heard)
        except ConnectionLost:
            response.close()
            self._breaks += 1
            if self._position.last_id is None or self._breaks > MAX_BREAKS:
                raise
            return None
        except BaseException:
            response.close()
            raise
        response.release()
        if message is None and self._position.last_id is None:
            self._session.distrust()
            raise self._lost("it ended the stream before its answer")
        if message is None and self._call.when_paused is not None:
            self._call.when_paused(self._position.pause_seconds)
        return message

    def _lost(self, how: str) -> ConnectionLost:
        return ConnectionLost(self._session.upstream, f"{how}; the request may have run")

    async def _continued(self) -> Response:
        """The stream that goes on where the last one ended.

        Raises UpstreamTimeout, or ConnectionLost: that this was refused does not say that the call has not run.
        """
        while True:
            await self._pause()
            try:
                response = await self._session.get(self._call.headers, self._position.last_id)
            except UpstreamTimeout:
                raise
            except UpstreamError as error:
                raise self._lost(f"it ended the stream before its answer, and it could not be continued ({error})") from error
            if response.status == 200 and response.streaming:
                response.set_timeout(math.inf if self._asked else self._call.timeout_seconds)
                return response
            response.close()
            if response.status != 429 and response.status < 500:
                raise self._lost(f"it ended the stream before its answer, and does not continue it (HTTP {response.status})")

    async def _pause(self) -> None:
        """Wait for as long as the server wishes. Raises UpstreamTimeout where there is no sign of life for too long."""
        # Of a stream that broke nobody said when it goes on; and if the server is gone, that is to be known soon.
        pause = SHORTEST_PAUSE_SECONDS if self._breaks else self._position.pause_seconds
        left = math.inf if self._asked else self._heard_at + self._call.timeout_seconds - self._now()
        await asyncio.sleep(max(0.0, min(pause, left)))
        if left <= pause:
            seconds = self._call.timeout_seconds
            raise UpstreamTimeout(self._session.upstream, f"no sign of life for {seconds:g} seconds")

    def _heard(self, event: sse.Event) -> jsonrpc.Message | None:
        """The response, if this is it."""
        self._heard_at = self._now()
        if event.id is not None or event.retry_ms is not None:
            self._position.heard(event)
        if not event.data:
            return None
        self._breaks = 0
        message = decode_message(self._session.upstream, event.data)
        if message.is_request:
            self._ask(message)
        elif message.is_notification:
            self._told(message)
        elif message.id == self._id or (message.id is None and isinstance(message.error, Raw)):
            return message
        return None

    def _ask(self, message: jsonrpc.Message) -> None:
        self._asked = True
        if self._response is not None:
            self._response.set_timeout(math.inf)
        self._questions.put(message, self._channel.ask)

    def _listen_strictly(self) -> None:
        """No question is open any more."""
        self._asked = False
        self._heard_at = self._now()
        if self._response is not None:
            self._response.set_timeout(self._call.timeout_seconds)

    def _told(self, message: jsonrpc.Message) -> None:
        if message.method != "notifications/cancelled":
            tell(self._session, message, self._id, self._token, self._channel)
        else:
            self._questions.withdraw(message)


def tell(session: Speaker, message: jsonrpc.Message, id: int, token: Raw | None, channel: Channel) -> None:
    """Pass on a notification that came on a call's own stream. Progress gets the client's token back."""
    params = params_of(message)
    if message.method == "notifications/progress":
        if token is not None and bytes(params.get("progressToken", b"")) == b"%d" % id:
            channel.notify("notifications/progress", with_token(params, token))
    elif message.method in CALL_NOTIFICATIONS or session.listener is None:
        channel.notify(str(message.method), bytes(jsonrpc.raw(params)))
    else:
        announce(session, message)


def announce(session: Speaker, message: jsonrpc.Message) -> None:
    """Pass a notification that belongs to no call to whoever listens."""
    if session.listener is None:
        return
    try:
        session.listener.notified(str(message.method), bytes(jsonrpc.raw(params_of(message))))
    except GatewayError as error:  # one malformed notification must not end the stream it came on
        _log.warning("%s of upstream %r was not passed on: %s", str(message.method)[:100], session.upstream, error)


def params_of(message: jsonrpc.Message) -> jsonrpc.Params:
    return message.params if isinstance(message.params, dict) else jsonrpc.NO_PARAMS


CALL_NOTIFICATIONS = frozenset({"notifications/message"})
"""Notifications that belong to the call on whose stream they came. The others speak of the whole server."""
