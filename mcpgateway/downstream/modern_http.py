"""Streamable HTTP downstream, revision 2026-07-28: each POST is a request of its own, and there are no sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from mcpgateway.auth.principals import Principal
from mcpgateway.downstream import envelope, generations
from mcpgateway.downstream.callers import Asking, Caller, Callers
from mcpgateway.downstream.dispatch import Dispatch, Handler
from mcpgateway.downstream.envelope import Envelope
from mcpgateway.downstream.exchange import JSON, Exchange, Headers
from mcpgateway.downstream.leaving import Leaving
from mcpgateway.downstream.listen import Listening
from mcpgateway.downstream.parked import Interaction, Outcome
from mcpgateway.downstream.problems import Problem, modern_problem, stopped, unexpected
from mcpgateway.downstream.questions import Capabilities, Question, lacking, undeclared
from mcpgateway.downstream.reply import Reply
from mcpgateway.downstream.rounds import Rounds
from mcpgateway.errors import GatewayError, RpcError
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call, Channel, cannot_ask
from mcpgateway.protocol.levels import reaches
from mcpgateway.protocol.modern import ASKABLE, DISCOVER, LISTEN, WITH_ROUNDS
from mcpgateway.runtime import Sweep
from mcpgateway.services.handshake import Handshake
from mcpgateway.services.tool_service import ToolService
from mcpgateway.services.views import View
from mcpgateway.upstream.base import GATEWAY_INFO

_log = logging.getLogger("mcpgateway.calls")

CANNOT_ASK = -32601
LOGGED = "notifications/message"
OF_CALLS = frozenset({"notifications/progress", LOGGED})
"""What may be said while a call runs. The rest is for those who listen, or belongs to sessions."""


class ModernHTTP:
    """One edge for all clients of this generation. `request_id` names a request in the log."""

    def __init__(
        self,
        dispatch: Dispatch,
        handshake: Handshake,
        tools: ToolService,
        listening: Listening,
        rounds: Rounds,
        sweep: Sweep,
        json_depth: int,
        request_id: Callable[[Headers], str],
    ) -> None:
        self._dispatch = dispatch
        self._handshake = handshake
        self._tools = tools
        self._listening = listening
        self._rounds = rounds
        self._sweep = sweep
        self._json_depth = json_depth
        self._request_id = request_id
        self.callers = Callers(sweep)
        self._in_flight = 0
        self._unanswered: set[Leaving] = set()
        self.mirrored = True
        """Whether requests repeat arguments of tools in headers, as they do over HTTP."""

    def __repr__(self) -> str:
        return f"<ModernHTTP {self._in_flight} calls in flight, {self._rounds.parked!r}>"

    @property
    def busy(self) -> bool:
        """Whether calls are in flight, or wait for their client."""
        return self._in_flight > 0 or len(self._rounds.parked) > 0

    async def post(self, exchange: Exchange, body: bytes, principal: Principal, view: View) -> None:
        """Answer a POST. Raises ClientError for what is wrong with the request as a whole."""
        envelope.check_media(exchange.headers)
        version = envelope.version_in(exchange.headers)
        message = envelope.decode(body, self._json_depth, version)
        if message.is_notification:
            envelope.check_version(version)
            await exchange.respond(202, b"", ())
            return
        id = envelope.id_of(message)
        try:
            request = envelope.read(message, exchange.header_list)
            request.place = view.only.slug if view.single else ""
            caller = self.callers.of(principal, view, request)
            if request.method == LISTEN:
                await self._listening.serve(request, exchange, caller)
            else:
                await self._serve(request, exchange, caller)
        except GatewayError as error:
            await _respond(exchange, modern_problem(error, id))
        except Exception:
            name = self._request_id(exchange.headers)
            _log.exception("%s failed unexpectedly", name)
            # Raises RuntimeError where an answer has begun, which cannot be taken back.
            await _respond(exchange, unexpected(name, id))

    @staticmethod
    def may_finish_a_call(body: bytes) -> bool:
        """Whether a message goes on with a call that waits for it, which it may while the gateway drains."""
        return b'"requestState"' in body

    def drain(self) -> None:
        """End the streams that clients listen on. Calls go on."""
        self._listening.end_all()

    def end_unless(self, served: Callable[[Principal, View], bool]) -> None:
        """End the streams of callers who are served no more."""
        for caller in self.callers.all():
            if caller.streams and not served(caller.principal, caller.view):
                self._listening.end_of(caller)

    def stop(self) -> None:
        """The gateway ends: calls in flight are cancelled, and answered with that."""
        for leaving in tuple(self._unanswered):
            leaving.stop()

    def close(self) -> None:
        """End what is left."""
        self.drain()
        self._rounds.parked.close()

    async def _serve(self, request: Envelope, exchange: Exchange, caller: Caller) -> None:
        """Answer one call. Raises GatewayError for what is found wrong with it before it begins."""
        call = self._call(request, exchange, caller)
        handler = self._handler(request, caller, call)
        reply = ModernReply(exchange, self._sweep, request)
        leaving = Leaving()
        exchange.when_left(leaving.cancel)
        self._in_flight += 1
        self._unanswered.add(leaving)
        try:
            problem = await self._answer(request, caller, call, handler, reply)
            self._unanswered.discard(leaving)
            await reply.finish(problem.status, [problem.body], problem.headers)
        except asyncio.CancelledError:
            if not leaving.was_all():
                raise
            if leaving.stopped:
                await reply.finish(200, [stopped(request.id).body])
            else:
                _log.debug("%s was cancelled: its client left", call.request_id)
        finally:
            leaving.over = True
            self._unanswered.discard(leaving)
            self._in_flight -= 1
            await reply.abandon()

    def _handler(self, request: Envelope, caller: Caller, call: Call) -> Handler:
        """Raises MethodNotFound."""
        if request.method == DISCOVER:
            return self._discover
        return self._dispatch.modern(request.method, caller.view, call, caller.principal)

    def _call(self, request: Envelope, exchange: Exchange, caller: Caller) -> Call:
        same = request.client_info == caller.client_info
        call = Call(
            request.method,
            request.neutral,
            client=caller if same else Asking(caller, request.client_info),
            client_headers=exchange.header_list,
            request_id=self._request_id(exchange.headers),
            log_level=request.log_level,
        )
        call.continue_trace(exchange.headers)
        return call

    async def _discover(self, view: View, caller: Any, call: Call, channel: Channel) -> bytes:
        return await self._handshake.discover(view, caller, call)

    async def _check_mirrored(self, request: Envelope, caller: Caller, call: Call) -> None:
        """Raises RpcError where headers that repeat a tool's arguments do not."""
        if "arguments" in request.params or any(name.startswith(b"mcp-param-") for name in request.headers):
            schema = await self._tools.mirrored_schema(caller.view, caller, call)
            if schema is not None:
                envelope.check_mirrored(request, schema)

    async def _answer(self, request: Envelope, caller: Caller, call: Call, handler: Handler, reply: ModernReply) -> Problem:
        """The answer to one request, whatever becomes of it."""
        try:
            if self.mirrored and request.method == "tools/call":
                await self._check_mirrored(request, caller, call)
            if request.method not in WITH_ROUNDS or not _may_be_asked(request):
                outcome = await _outcome(caller, call, handler, reply)
                return self._problem(request, caller, call, outcome, reply)
            interaction = self._rounds.resume(request, caller.user)
            if interaction is None:
                call.params = call.params | request.answers
                interaction = Interaction(call, request.capabilities)
                interaction.start(_outcome(caller, call, handler, interaction))
            interaction.attach(reply, call.progress_token())
            return await self._round(request, caller, interaction)
        except GatewayError as error:
            return modern_problem(error, request.id)

    async def _round(self, request: Envelope, caller: Caller, interaction: Interaction) -> Problem:
        """The answer of a call that may ask: its questions, or how it ended."""
        try:
            if await interaction.round():
                return self._problem(request, caller, interaction.call, interaction.outcome, interaction)
            return Problem(200, jsonrpc.result(request.id, self._rounds.ask(request, caller.user, interaction)))
        except BaseException:
            # A call whose questions reach nobody must not wait for their answers.
            interaction.detach()
            interaction.end()
            raise

    def _problem(self, request: Envelope, caller: Caller, call: Call, outcome: Outcome, channel: Asked) -> Problem:
        """How a call's end is told. Raises RpcError where its server asks what it may not."""
        if isinstance(outcome, bytes):
            return Problem(200, jsonrpc.result(request.id, self._result(request, caller, call, outcome)))
        if not isinstance(outcome, GatewayError):
            _log.error("%s %s failed unexpectedly", call.request_id, call.method[:100], exc_info=outcome)
            return unexpected(call.request_id, request.id)
        if not isinstance(outcome, RpcError):
            _log.info("%s %s failed: %s", call.request_id, call.method[:100], outcome)
        elif outcome.code == generations.URL_REQUIRED and call.method in WITH_ROUNDS:
            return Problem(200, jsonrpc.result(request.id, self._rounds.visit(request, caller.user, outcome)))
        elif outcome.code == CANNOT_ASK and channel.lacked is not None:
            # Its server gave up because it could not ask: that the client can mend.
            outcome = undeclared(channel.lacked)
        return modern_problem(outcome, request.id)

    def _result(self, request: Envelope, caller: Caller, call: Call, result: bytes) -> bytes:
        answerer = call.answerer
        if call.method == DISCOVER:
            return generations.checked(call.method, result)
        if answerer is None:
            return generations.to_modern(call.method, result, self._identification(caller, call))
        if not revisions.is_modern(answerer.protocol_version):
            return generations.to_modern(call.method, result, bytes(answerer.server_info))
        if call.method in WITH_ROUNDS and generations.kind_of(result) == generations.INPUT_REQUIRED:
            return self._rounds.relay(request, caller.user, result)
        return generations.checked(call.method, result)

    @staticmethod
    def _identification(caller: Caller, call: Call) -> bytes:
        """Who answers where the gateway does by itself: it, or the one server it stands for."""
        if not caller.view.single:
            return GATEWAY_INFO
        upstream = caller.view.only
        welcome = upstream.welcome_of(upstream.identity_of(caller.principal, call), modern=True)
        return bytes(welcome.server_info) if welcome is not None else GATEWAY_INFO


async def _respond(exchange: Exchange, problem: Problem) -> None:
    await exchange.respond(problem.status, problem.body, (JSON, *problem.headers))


async def _outcome(caller: Caller, call: Call, handler: Handler, channel: Channel) -> Outcome:
    """How a call ends. Not as an exception: the task of one that may ask has nobody to raise it to."""
    try:
        return await handler(caller.view, caller, call, channel)
    except Exception as error:
        return error


def _may_be_asked(request: Envelope) -> bool:
    """Whether a server may ask this request's client anything, or did in an earlier round."""
    if not request.params.keys().isdisjoint(("inputResponses", "requestState")):
        return True
    return request.capabilities != b"{}" and not jsonrpc.object_of(request.capabilities).keys().isdisjoint(ASKABLE.values())


class Asked(Protocol):
    """Where a call's server asked what it did."""

    lacked: Capabilities | None
    """What a client would have had to declare to be asked."""


class _Logged(msgspec.Struct):
    level: str = ""


class ModernReply(Reply):
    """A reply to a modern client, which hears of its call what it asked for, and is asked nothing meanwhile. A `Channel`."""

    def __init__(self, exchange: Exchange, sweep: Sweep, request: Envelope) -> None:
        super().__init__(exchange, sweep)
        self._log_level = request.log_level
        self._capabilities = request.capabilities
        self.lacked: Capabilities | None = None

    def notify(self, method: str, params: bytes) -> None:
        if method not in OF_CALLS or (method == LOGGED and not self._is_loud(params)):
            return
        super().notify(method, params)

    def _is_loud(self, params: bytes) -> bool:
        """Whether a log message reaches the level that the client asked for."""
        if self._log_level is None:
            return False
        try:
            return reaches(msgspec.json.decode(params, type=_Logged).level, self._log_level)
        except msgspec.DecodeError:
            return False

    async def ask(self, method: str, params: bytes) -> bytes:
        """Raises RpcError: only of clients that said so can anything be asked, and then not here."""
        self.lacked = lacking(self._capabilities, Question(method, params))
        raise cannot_ask(method)
