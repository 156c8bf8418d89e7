"""What all clients with a handshake have in common, whichever wire they come on: decoding, initialize, calls, the end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable
from typing import Protocol

import msgspec

from mcpgateway.downstream import generations
from mcpgateway.downstream.described import description
from mcpgateway.downstream.dispatch import Dispatch
from mcpgateway.downstream.exchange import HeaderList, Headers
from mcpgateway.downstream.problems import CANCELLED, Problem, problem_of, stopped, unexpected
from mcpgateway.downstream.sessions import ClientSession, Sessions
from mcpgateway.errors import GatewayError, InvalidRequest, RpcError, StateLost
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.services.announcements import Announcer
from mcpgateway.services.forward import Forward
from mcpgateway.services.handshake import Handshake

_log = logging.getLogger("mcpgateway.calls")

MAX_BATCH = 1000
"""Messages in a batch: each of its requests runs in a task."""

_nothing = msgspec.Raw(b"{}")


class Sent(Protocol):
    """What a message came with, on wires that have headers."""

    headers: Headers
    header_list: HeaderList


class NoHeaders:
    """What a message came with on a wire that has none."""

    def __init__(self) -> None:
        self.headers: Headers = {}
        self.header_list: HeaderList = ()


class Conversing:
    """Between the edges for clients with a handshake and the services. Knows sessions, and no wire."""

    def __init__(
        self,
        sessions: Sessions,
        dispatch: Dispatch,
        handshake: Handshake,
        forward: Forward,
        announcer: Announcer,
        json_depth: int,
    ) -> None:
        self.sessions = sessions
        self._dispatch = dispatch
        self._handshake = handshake
        self._forward = forward
        self._announcer = announcer
        self._json_depth = json_depth
        self._boot = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Conversing {self.sessions!r}>"

    def decode(self, body: bytes) -> jsonrpc.Message:
        """The message in `body`. Raises ClientError."""
        message = jsonrpc.decode(body)
        if message.jsonrpc != "2.0":
            raise InvalidRequest('not a JSON-RPC message: "jsonrpc" must be "2.0"')
        self.check_depth(body)
        return message

    def check_depth(self, body: bytes) -> None:
        """`body` must have been decoded, so that this looks at JSON alone: what is none can take it very long."""
        if jsonrpc.too_deep(body, self._json_depth):
            raise InvalidRequest(f"the body is nested more than {self._json_depth} levels deep (gateway.limits.json_depth)")

    def request_id(self, headers: Headers) -> str:
        """The name under which a request is logged: the client's own, if it is one that a log can hold."""
        given = headers.get(b"x-request-id")
        if given is not None and 0 < len(given) <= 128 and given.isascii() and given.decode().isprintable():
            return given.decode()
        return f"{self._boot}-{next(self._numbers):x}"

    async def answer(
        self,
        message: jsonrpc.Message,
        id: jsonrpc.Id,
        session: ClientSession,
        sent: Sent,
        channel: Channel,
        when_paused: Callable[[float], None] | None = None,
    ) -> Problem | None:
        """The answer to one request, whatever becomes of it; None where the client took the request back.

        It is in flight in the session meanwhile, so `id` must not be that of another which is. `when_paused`: see `Call`.
        """
        params = message.params if isinstance(message.params, dict) else jsonrpc.NO_PARAMS
        method = str(message.method)
        call = Call(
            method,
            params,
            client=session,
            client_headers=sent.header_list,
            request_id=self.request_id(sent.headers),
            log_level=session.log_level,
        )
        call.when_paused = when_paused
        session.in_flight[id] = task = self._current_task()
        try:
            call.continue_trace(sent.headers)
            result = await self._dispatch.handler(method)(session.view, session, call, channel)
            if generations.by_modern(call.answerer):
                result = generations.to_legacy(result)
            return Problem(200, jsonrpc.result(id, result))
        except GatewayError as error:
            told = error
            if isinstance(error, RpcError) and generations.by_modern(call.answerer):
                told = generations.error_to_legacy(method, error)
            problem = problem_of(told, id)
            if isinstance(error, StateLost):
                del session.in_flight[id]  # else this call, too, would be cancelled
                self.sessions.end(session)
            if not isinstance(error, RpcError):
                _log.info("%s %s failed: %s", call.request_id, method[:100], error)
            return problem
        except Exception:
            _log.exception("%s %s failed unexpectedly", call.request_id, method[:100])
            return unexpected(call.request_id, id)
        except asyncio.CancelledError:
            if id not in session.cancelled or task.uncancel():
                raise
            return stopped(id) if session.stopped else None
        finally:
            session.in_flight.pop(id, None)
            if session.cancelled:
                session.cancelled.discard(id)
            self.sessions.touch(session)

    def _current_task(self) -> asyncio.Task[object]:
        # Asked each time, which loop is running costs a system call.
        self._loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("a request is served by a task")
        return task

    def take(self, message: jsonrpc.Message, session: ClientSession) -> None:
        """Act on a notification or a response of the client's. Raises InvalidRequest for what is neither."""
        if message.is_response:
            session.answered(message)
        elif not message.is_notification:
            raise InvalidRequest("neither a request, nor a notification, nor a response: no method, result or error")
        elif message.method == "notifications/cancelled":
            params = message.params if isinstance(message.params, dict) else {}
            id = _decoded(params.get("requestId"))
            if isinstance(id, int | str):
                session.cancel(id)
        elif message.method == "notifications/roots/list_changed":
            self._forward.tell(session, "notifications/roots/list_changed")

    async def initialize(self, message: jsonrpc.Message, session: ClientSession, sent: Sent) -> bytes:
        """The answer to `initialize`, of a session that says of itself what stands in it. Raises GatewayError."""
        params = message.params if isinstance(message.params, dict) else jsonrpc.NO_PARAMS
        call = Call("initialize", params, client=session, client_headers=sent.header_list)
        result = await self._handshake.initialize(session.view, session, call)
        return jsonrpc.result(id_of(message), result)

    def begun(self, session: ClientSession) -> None:
        """The session's client knows it: from now on it hears what changes."""
        self._announcer.conversations.add(session)

    def listen(self, session: ClientSession) -> None:
        """The session's client listens now: the servers that it has sessions with may say something."""
        self._forward.listen(session)

    def stop_listening(self, session: ClientSession) -> None:
        self._forward.stop_listening(session)
        self.sessions.touch(session)

    def ended(self, session: ClientSession) -> None:
        """A session is over: what belongs to it upstream is given up."""
        self._announcer.forget(session)
        self._forward.end(session)


def described(message: jsonrpc.Message) -> tuple[str, bytes, bytes]:
    """How a client describes itself in `initialize`: the revision agreed on, capabilities, clientInfo. Raises InvalidParams."""
    params = message.params if isinstance(message.params, dict) else jsonrpc.NO_PARAMS
    version = revisions.negotiate(jsonrpc.string_of(params, "protocolVersion"))
    capabilities, info = params.get("capabilities", _nothing), params.get("clientInfo", _nothing)
    return version, description(capabilities, "params.capabilities"), description(info, "params.clientInfo")


def id_of(message: jsonrpc.Message) -> jsonrpc.Id:
    """A request's id. Raises InvalidRequest where it is none."""
    if not isinstance(message.id, int | str):
        raise InvalidRequest("a request's id must be a string or an integer")
    return message.id


def new_id_of(message: jsonrpc.Message, session: ClientSession) -> jsonrpc.Id:
    """The id of a request that may begin now. Raises InvalidRequest."""
    id = id_of(message)
    if id in session.in_flight:
        raise InvalidRequest(f"a request with the id {str(id)[:100]!r} is in flight in this session already")
    return id


def withdrawn(id: jsonrpc.Id) -> Problem:
    """What a wire that must answer says of a request that its client took back."""
    return Problem(200, jsonrpc.error(id, RpcError.of(CANCELLED, "Request cancelled").error))


def _decoded(raw: msgspec.Raw | None) -> object:
    """The value of something that may be anything; None for what cannot be read."""
    try:
        return msgspec.json.decode(raw) if raw is not None else None
    except (msgspec.DecodeError, RecursionError):
        return None
