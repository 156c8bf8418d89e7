"""Streamable HTTP downstream, revisions 2025-03-26 to 2025-11-25: POST, GET and DELETE of one endpoint."""

from __future__ import annotations

import asyncio
from functools import lru_cache, partial

from mcpgateway import runtime
from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.conversing import MAX_BATCH, Conversing, described, id_of, new_id_of, withdrawn
from mcpgateway.downstream.event_store import GENERAL, EventStore, KeptStream
from mcpgateway.downstream.event_stream import EventStream
from mcpgateway.downstream.exchange import JSON, Exchange, Headers
from mcpgateway.downstream.media import accepts, check_json, prefers_streams
from mcpgateway.downstream.problems import problem_of
from mcpgateway.downstream.reply import SessionReply
from mcpgateway.downstream.sessions import ClientSession
from mcpgateway.errors import (
    GatewayError,
    InvalidRequest,
    MethodNotFound,
    NotAcceptable,
    UnsupportedVersion,
)
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.runtime import Sweep
from mcpgateway.services.views import View

REMEMBERED_BYTES = 512
"""What a client says in Content-Type and Accept is remembered up to this length."""

_spoken = frozenset({b"", *(version.encode() for version in revisions.LEGACY)})


class StreamableHTTP:
    """One edge for all clients of these revisions."""

    def __init__(self, conversing: Conversing, sweep: Sweep) -> None:
        self._conversing = conversing
        self._sessions = conversing.sessions
        self._sweep = sweep
        self.store = EventStore(sweep)

    def __repr__(self) -> str:
        return f"<StreamableHTTP {self._sessions!r}>"

    async def post(self, exchange: Exchange, body: bytes, principal: Principal, view: View) -> None:
        """Answer a POST. Raises ClientError for what is wrong with the request as a whole."""
        headers = exchange.headers
        kinds = headers.get(b"content-type", b""), headers.get(b"accept", b"")
        if len(kinds[0]) + len(kinds[1]) <= REMEMBERED_BYTES:
            _known_media(*kinds)
        else:
            _check_media(*kinds)
        if body[:1] != b"{" and body.lstrip()[:1] == b"[":
            await self._batch(exchange, body, principal, view)
            return
        message = self._conversing.decode(body)
        if message.method == "initialize" and message.is_request:
            await self._initialize(exchange, message, principal, view)
            return
        _check_version(headers, message.method)
        session = self._session(headers, principal, view)
        if message.is_request:
            await self._answer(exchange, message, session)
        else:
            self._conversing.take(message, session)
            await exchange.respond(202, b"", ())

    @staticmethod
    def may_finish_a_call(body: bytes) -> bool:
        """Whether a message belongs to calls in flight, which go on while the gateway drains: an answer, a cancellation."""
        try:
            return not jsonrpc.decode(body).is_request
        except GatewayError:
            return False

    def request_id(self, headers: Headers) -> str:
        """The name under which a request is logged."""
        return self._conversing.request_id(headers)

    def _session(self, headers: Headers, principal: Principal, view: View) -> ClientSession:
        id = headers.get(b"mcp-session-id")
        if id is None:
            raise InvalidRequest("the Mcp-Session-Id header is missing: send initialize first, and then the id it answers with")
        session = self._sessions.get(id.decode("latin-1"), principal.id, view)
        session.act_as(principal)
        return session

    async def _answer(self, exchange: Exchange, message: jsonrpc.Message, session: ClientSession) -> None:
        """Answer one request, whatever becomes of it."""
        id = new_id_of(message, session)
        reply = SessionReply(session, exchange, self._sweep, self.store)
        try:
            problem = await self._conversing.answer(message, id, session, exchange, reply, reply.pause) or withdrawn(id)
            if problem.status == 200 and prefers_streams(exchange.headers.get(b"accept", b"")):
                reply.streaming()
            await reply.finish(problem.status, [problem.body], problem.headers)
        except BaseException:
            await reply.abandon()
            raise

    async def _initialize(self, exchange: Exchange, message: jsonrpc.Message, principal: Principal, view: View) -> None:
        """Begin a session."""
        id = id_of(message)
        try:
            session = ClientSession(principal, view, *described(message), self._sweep)
            answer = await self._begin(exchange, message, session)
        except GatewayError as error:
            problem = problem_of(error, id)
            await exchange.respond(problem.status, problem.body, (JSON, *problem.headers))
            return
        self._conversing.begun(session)
        await exchange.respond(200, answer, (JSON, (b"mcp-session-id", session.id.encode())))

    async def _begin(self, exchange: Exchange, message: jsonrpc.Message, session: ClientSession) -> bytes:
        """The answer to `initialize`; from then on the session is known. If that fails, nothing of it is left upstream."""
        try:
            answer = await self._conversing.initialize(message, session, exchange)
            self._sessions.add(session)
        except BaseException:
            self._conversing.ended(session)
            raise
        return answer

    async def _batch(self, exchange: Exchange, body: bytes, principal: Principal, view: View) -> None:
        """Several messages at once: 2025-03-26 alone has that. They run concurrently."""
        items = jsonrpc.decode_batch(body)
        _check_version(exchange.headers, "")
        session = self._session(exchange.headers, principal, view)
        if not revisions.has_batches(session.version):
            raise InvalidRequest(f"revision {session.version} has no batches: send one message per request")
        self._conversing.check_depth(body)
        if not 0 < len(items) <= MAX_BATCH:
            raise InvalidRequest(f"a batch must hold 1 to {MAX_BATCH} messages")
        messages = [self._conversing.decode(item) for item in items]
        if any(message.method == "initialize" for message in messages):
            raise InvalidRequest("a batch must not hold initialize")
        requests = [message for message in messages if message.is_request]
        for message in messages:
            if not message.is_request:
                self._conversing.take(message, session)
        if not requests:
            await exchange.respond(202, b"", ())
            return
        reply = SessionReply(session, exchange, self._sweep, self.store)
        session.batches += 1
        try:
            answers = await asyncio.gather(
                *(runtime.spawn(self._answer_one(exchange, message, session, reply), "one of a batch") for message in requests)
            )
            await reply.finish(200, answers, batch=True)
        except BaseException:
            await reply.abandon()
            raise
        finally:
            session.batches -= 1

    async def _answer_one(
        self, exchange: Exchange, message: jsonrpc.Message, session: ClientSession, reply: SessionReply
    ) -> bytes:
        try:
            id = new_id_of(message, session)
        except InvalidRequest as error:
            return problem_of(error, message.id if isinstance(message.id, int | str) else None).body
        return (await self._conversing.answer(message, id, session, exchange, reply) or withdrawn(id)).body

    async def get(self, exchange: Exchange, principal: Principal, view: View) -> None:
        """The stream of what is said outside calls, or what is left of one that the client lost; until it ends, or they leave.

        Raises InvalidRequest where nothing is kept of what was lost.
        """
        if not accepts(exchange.headers, b"text/event-stream"):
            raise NotAcceptable("a GET is answered with an event stream: Accept must list text/event-stream")
        session = self._session(exchange.headers, principal, view)
        last = exchange.headers.get(b"last-event-id")
        if not revisions.primes_streams(session.version):
            await self._listen(exchange, session, EventStream(exchange, self._sweep, _named(session)))
            return
        lost, after = self.store.find(session, last) if last else (self.store.general(session), None)
        stream = EventStream(exchange, self._sweep, _named(session), lost.encode)
        if lost.name != GENERAL:
            await self._resume(exchange, lost, stream, after)
        else:
            lost.begin_on(stream, after)
            await self._listen(exchange, session, stream)

    async def _listen(self, exchange: Exchange, session: ClientSession, stream: EventStream) -> None:
        stream.start()
        before = session.attach(stream)
        if before is not None:
            before.end()
        self._conversing.listen(session)
        exchange.when_left(stream.end_at_once)
        try:
            await stream.ended()
        finally:
            if session.detach(stream):
                self._conversing.stop_listening(session)
            await stream.cut()

    async def _resume(self, exchange: Exchange, lost: KeptStream, stream: EventStream, after: int | None) -> None:
        lost.carry(stream, after)
        stream.start()
        exchange.when_left(partial(lost.lost, stream))
        try:
            await stream.ended()
        finally:
            lost.lost(stream)
            await stream.cut()

    async def delete(self, exchange: Exchange, principal: Principal, view: View) -> None:
        """The client ends its session."""
        self._sessions.end(self._session(exchange.headers, principal, view))
        await exchange.respond(204, b"", ())


def _named(session: ClientSession) -> list[tuple[bytes, bytes]]:
    return [(b"mcp-session-id", session.id.encode())]


@lru_cache(maxsize=256)
def _known_media(content_type: bytes, accept: bytes) -> None:
    """`_check_media`. What is right is remembered: clients say the same with each request."""
    _check_media(content_type, accept)


def _check_media(content_type: bytes, accept: bytes) -> None:
    """Raises UnsupportedMedia, NotAcceptable."""
    headers = {b"content-type": content_type, b"accept": accept}
    check_json(headers)
    if not (accepts(headers, b"application/json") and accepts(headers, b"text/event-stream")):
        raise NotAcceptable("Accept must list both application/json and text/event-stream")


def _check_version(headers: Headers, method: object) -> None:
    """Refuse a revision that is not spoken here; a modern client falls back to initialize on this answer."""
    said = headers.get(b"mcp-protocol-version", b"")
    if said in _spoken and method != "server/discover":
        return
    version = said.decode("latin-1")
    if method == "server/discover" and version in ("", *revisions.LEGACY):
        raise MethodNotFound("Method not found: server/discover; this server speaks revisions that begin with initialize")
    if version and version not in revisions.LEGACY:
        data = {"supported": list(revisions.LEGACY), "requested": version[:100]}
        spoken = ", ".join(revisions.LEGACY)
        raise UnsupportedVersion(f"protocol version {version[:100]!r} is not spoken here; supported: {spoken}", data=data)
