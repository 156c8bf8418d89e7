"""Streamable HTTP downstream, revisions 2025-03-26 to 2025-11-25: POST, GET and DELETE of one endpoint."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets

import msgspec

from mcpgateway import runtime
from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.dispatch import Dispatch
from mcpgateway.downstream.event_stream import EventStream
from mcpgateway.downstream.exchange import JSON, Exchange, Headers
from mcpgateway.downstream.problems import CANCELLED, Problem, problem_of, unexpected
from mcpgateway.downstream.reply import SessionReply
from mcpgateway.downstream.sessions import ClientSession, Sessions
from mcpgateway.errors import (
    GatewayError,
    InvalidRequest,
    MethodNotFound,
    NotAcceptable,
    RpcError,
    StateLost,
    UnsupportedMedia,
    UnsupportedVersion,
)
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call
from mcpgateway.runtime import Sweep
from mcpgateway.services.announcements import Announcer
from mcpgateway.services.forward import Forward
from mcpgateway.services.handshake import Handshake
from mcpgateway.services.views import View

_log = logging.getLogger("mcpgateway.calls")

MAX_BATCH = 1000
"""Messages in a batch: each of its requests runs in a task."""


class StreamableHTTP:
    """One edge for all clients of these revisions."""

    def __init__(
        self,
        sessions: Sessions,
        dispatch: Dispatch,
        handshake: Handshake,
        forward: Forward,
        announcer: Announcer,
        sweep: Sweep,
        json_depth: int,
    ) -> None:
        self._sessions = sessions
        self._dispatch = dispatch
        self._handshake = handshake
        self._forward = forward
        self._announcer = announcer
        self._sweep = sweep
        self._json_depth = json_depth
        self._boot = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        return f"<StreamableHTTP {self._sessions!r}>"

    async def post(self, exchange: Exchange, body: bytes, principal: Principal, view: View) -> None:
        """Answer a POST. Raises ClientError for what is wrong with the request as a whole."""
        headers = exchange.headers
        _check_post_headers(headers)
        if body[:1] == b"[" or body.lstrip()[:1] == b"[":
            await self._batch(exchange, body, principal, view)
            return
        message = self._decode(body)
        self._check_depth(body)
        if message.method == "initialize" and message.is_request:
            await self._initialize(exchange, message, principal, view)
            return
        _check_version(headers, message.method)
        session = self._session(headers, principal, view)
        if message.is_request:
            id = _id_of(message, session)
            reply = SessionReply(session, exchange, self._sweep)
            try:
                problem = await self._answer(exchange, message, id, session, reply)
                await reply.finish(problem.status, [problem.body], problem.headers)
            except BaseException:
                await reply.abandon()
                raise
            return
        self._take(message, session)
        await exchange.respond(202, b"", ())

    @staticmethod
    def may_finish_a_call(body: bytes) -> bool:
        """Whether a message belongs to calls in flight, which go on while the gateway drains: an answer, a cancellation."""
        try:
            return not jsonrpc.decode(body).is_request
        except GatewayError:
            return False

    def _decode(self, body: bytes) -> jsonrpc.Message:
        message = jsonrpc.decode(body)
        if message.jsonrpc != "2.0":
            raise InvalidRequest('not a JSON-RPC message: "jsonrpc" must be "2.0"')
        return message

    def _check_depth(self, body: bytes) -> None:
        """`body` was decoded before, so that this looks at JSON alone: what is none can take it very long."""
        if jsonrpc.too_deep(body, self._json_depth):
            raise InvalidRequest(f"the body is nested more than {self._json_depth} levels deep (gateway.limits.json_depth)")

    def _session(self, headers: Headers, principal: Principal, view: View) -> ClientSession:
        id = headers.get(b"mcp-session-id")
        if id is None:
            raise InvalidRequest("the Mcp-Session-Id header is missing: send initialize first, and then the id it answers with")
        session = self._sessions.get(id.decode("latin-1"), principal.id, view)
        session.principal = principal  # the same one, with the groups that it has now
        return session

    async def _answer(
        self,
        exchange: Exchange,
        message: jsonrpc.Message,
        id: jsonrpc.Id,
        session: ClientSession,
        reply: SessionReply,
    ) -> Problem:
        """The answer to one request, whatever becomes of it."""
        params = message.params if isinstance(message.params, dict) else jsonrpc.NO_PARAMS
        method = str(message.method)
        call = Call(
            method,
            params,
            client=session,
            client_headers=exchange.header_list,
            request_id=self.request_id(exchange.headers),
            log_level=session.log_level,
        )
        session.in_flight[id] = task = _current_task()
        try:
            result = await self._dispatch.handler(method)(session.view, session, call, reply)
            return Problem(200, jsonrpc.result(id, result))
        except GatewayError as error:
            problem = problem_of(error, id)
            if isinstance(error, StateLost):
                self._sessions.end(session)
            if not isinstance(error, RpcError):
                _log.info("%s %s failed: %s", call.request_id, method[:100], error)
            return problem
        except Exception:
            _log.exception("%s %s failed unexpectedly", call.request_id, method[:100])
            return unexpected(call.request_id, id)
        except asyncio.CancelledError:
            if id not in session.cancelled or task.uncancel():
                raise
            return Problem(200, jsonrpc.error(id, RpcError.of(CANCELLED, "Request cancelled").error))
        finally:
            del session.in_flight[id]
            session.cancelled.discard(id)
            self._sessions.touch(session)

    def request_id(self, headers: Headers) -> str:
        """The name under which a request is logged: the client's own, if it is one that a log can hold."""
        given = headers.get(b"x-request-id")
        if given is not None and 0 < len(given) <= 128 and given.isascii() and given.decode().isprintable():
            return given.decode()
        return f"{self._boot}-{next(self._numbers):x}"

    def _take(self, message: jsonrpc.Message, session: ClientSession) -> None:
        """A notification or a response of the client's."""
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

    async def _initialize(self, exchange: Exchange, message: jsonrpc.Message, principal: Principal, view: View) -> None:
        """Begin a session."""
        id = message.id
        if not isinstance(id, int | str):
            raise InvalidRequest("a request's id must be a string or an integer")
        try:
            params = message.params if isinstance(message.params, dict) else {}
            session = self._new_session(params, principal, view)
            call = Call("initialize", params, client=session, client_headers=exchange.header_list)
            result = await self._begin(view, session, call)
        except GatewayError as error:
            problem = problem_of(error, id)
            await exchange.respond(problem.status, problem.body, (JSON, *problem.headers))
            return
        self._announcer.conversations.add(session)
        await exchange.respond(200, jsonrpc.result(id, result), (JSON, (b"mcp-session-id", session.id.encode())))

    def _new_session(self, params: jsonrpc.Params, principal: Principal, view: View) -> ClientSession:
        """A session as the client describes itself. Raises InvalidParams."""
        version = revisions.negotiate(jsonrpc.string_of(params, "protocolVersion"))
        capabilities = bytes(params.get("capabilities", b"{}"))
        info = bytes(params.get("clientInfo", b"{}"))
        jsonrpc.object_of(capabilities)
        jsonrpc.object_of(info)
        return ClientSession(principal, view, version, capabilities, info, self._sweep)

    async def _begin(self, view: View, session: ClientSession, call: Call) -> bytes:
        """The result of `initialize`; from then on the session is known. If that fails, nothing of it is left upstream."""
        try:
            result = await self._handshake.initialize(view, session, call)
            self._sessions.add(session)
        except BaseException:
            self._forward.end(session)
            raise
        return result

    async def _batch(self, exchange: Exchange, body: bytes, principal: Principal, view: View) -> None:
        """Several messages at once: 2025-03-26 alone has that. They run concurrently."""
        items = jsonrpc.decode_batch(body)
        _check_version(exchange.headers, "")
        session = self._session(exchange.headers, principal, view)
        if not revisions.has_batches(session.version):
            raise InvalidRequest(f"revision {session.version} has no batches: send one message per request")
        self._check_depth(body)
        if not 0 < len(items) <= MAX_BATCH:
            raise InvalidRequest(f"a batch must hold 1 to {MAX_BATCH} messages")
        messages = [self._decode(item) for item in items]
        if any(message.method == "initialize" for message in messages):
            raise InvalidRequest("a batch must not hold initialize")
        requests = [message for message in messages if message.is_request]
        for message in messages:
            if not message.is_request:
                self._take(message, session)
        if not requests:
            await exchange.respond(202, b"", ())
            return
        reply = SessionReply(session, exchange, self._sweep)
        try:
            answers = await asyncio.gather(
                *(runtime.spawn(self._answer_one(exchange, message, session, reply), "one of a batch") for message in requests)
            )
            await reply.finish(200, answers, batch=True)
        except BaseException:
            await reply.abandon()
            raise

    async def _answer_one(
        self, exchange: Exchange, message: jsonrpc.Message, session: ClientSession, reply: SessionReply
    ) -> bytes:
        try:
            id = _id_of(message, session)
        except InvalidRequest as error:
            return problem_of(error, message.id if isinstance(message.id, int | str) else None).body
        return (await self._answer(exchange, message, id, session, reply)).body

    async def get(self, exchange: Exchange, principal: Principal, view: View) -> None:
        """The stream of what is said outside calls, until the client leaves or the session ends."""
        if not _accepts(exchange.headers, b"text/event-stream"):
            raise NotAcceptable("a GET is answered with an event stream: Accept must list text/event-stream")
        session = self._session(exchange.headers, principal, view)
        stream = EventStream(exchange, self._sweep, [(b"mcp-session-id", session.id.encode())])
        stream.start()
        before = session.attach(stream)
        if before is not None:
            before.end()
        self._forward.listen(session)
        exchange.when_left(stream.end_at_once)
        try:
            await stream.ended()
        finally:
            if session.detach(stream):
                self._forward.stop_listening(session)
                self._sessions.touch(session)
            await stream.cut()

    async def delete(self, exchange: Exchange, principal: Principal, view: View) -> None:
        """The client ends its session."""
        self._sessions.end(self._session(exchange.headers, principal, view))
        await exchange.respond(204, b"", ())

    def ended(self, session: ClientSession) -> None:
        """A session is over: what belongs to it upstream is given up."""
        self._announcer.forget(session)
        self._forward.end(session)


def _id_of(message: jsonrpc.Message, session: ClientSession) -> jsonrpc.Id:
    """The id of a request that may begin now. Raises InvalidRequest."""
    if not isinstance(message.id, int | str):
        raise InvalidRequest("a request's id must be a string or an integer")
    if message.id in session.in_flight:
        raise InvalidRequest(f"a request with the id {str(message.id)[:100]!r} is in flight in this session already")
    return message.id


def _decoded(raw: msgspec.Raw | None) -> object:
    """The value of something that may be anything; None for what cannot be read."""
    try:
        return msgspec.json.decode(raw) if raw is not None else None
    except (msgspec.DecodeError, RecursionError):
        return None


def _current_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a request is served by a task")
    return task


def _check_post_headers(headers: Headers) -> None:
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMedia("the body must be application/json, and Content-Type must say so")
    if not (_accepts(headers, b"application/json") and _accepts(headers, b"text/event-stream")):
        raise NotAcceptable("Accept must list both application/json and text/event-stream")


def _accepts(headers: Headers, kind: bytes) -> bool:
    accept = headers.get(b"accept", b"").lower()
    return kind in accept or b"*/*" in accept or kind.partition(b"/")[0] + b"/*" in accept


def _check_version(headers: Headers, method: object) -> None:
    """Refuse a revision that is not spoken here; a modern client falls back to initialize on this answer."""
    version = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
    if method == "server/discover" and version in ("", *revisions.LEGACY):
        raise MethodNotFound("Method not found: server/discover; this server speaks revisions that begin with initialize")
    if version and version not in revisions.LEGACY:
        data = {"supported": list(revisions.LEGACY), "requested": version[:100]}
        spoken = ", ".join(revisions.LEGACY)
        raise UnsupportedVersion(f"protocol version {version[:100]!r} is not spoken here; supported: {spoken}", data=data)
