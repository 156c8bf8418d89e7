"""The conformance fixture on the SDK's 2.x line: python -m tests.conformance.server [dual|modern]

It serves on loopback, on the port in PORT or on one of the system's choice, and prints which as one JSON line. `dual`, the
default, speaks both generations; `modern` takes no handshake, as a server does that has left the older one behind.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
import uvicorn
from mcp import MCPError
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.streamable_http import EventMessage
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.conformance import behaviour, offers
from tests.conformance.listening import RETRY_MILLISECONDS, Events, loopback

Json = dict[str, Any]
ANSWERS: dict[str, type[Any]] = {
    "elicitation/create": types.ElicitResult,
    "roots/list": types.ListRootsResult,
    "sampling/createMessage": types.CreateMessageResult,
}
RESULTS: dict[str, type[types.Result]] = {
    "completion/complete": types.CompleteResult,
    "prompts/get": types.GetPromptResult,
    "prompts/list": types.ListPromptsResult,
    "resources/list": types.ListResourcesResult,
    "resources/read": types.ReadResourceResult,
    "resources/templates/list": types.ListResourceTemplatesResult,
    "tools/call": types.CallToolResult,
    "tools/list": types.ListToolsResult,
}
UNSUPPORTED_VERSION = -32022


class MoreInput(Exception):
    """A modern client must answer first; the text is the state that it brings back."""

    def __init__(self, questions: dict[str, Json], state: str | None) -> None:
        super().__init__(state)
        self.questions = questions
        self.state = state


class Caller2x:
    """behaviour.Caller on this line, for clients of either generation."""

    def __init__(self, ctx: Any, bus: InMemorySubscriptionBus) -> None:
        self._ctx = ctx
        self._bus = bus
        self.modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        declared = ctx.session.client_capabilities
        self.capabilities: Json = {} if declared is None else declared.model_dump(by_alias=True, exclude_none=True)

    def need(self, capability: str) -> None:
        if self.modern and capability not in self.capabilities:
            missing: Json = {"requiredCapabilities": {capability: {}}}
            raise behaviour.Refusal(-32021, f"The client must declare the capability {capability}", missing)

    async def ask(self, questions: dict[str, Json], *, keep: bool = False) -> dict[str, Json]:
        if not self.modern:
            return {key: await self._push(question) for key, question in questions.items()}
        params = self._ctx.params or {}
        before = json.loads(params.get("requestState") or "{}")
        answers = before | (params.get("inputResponses") or {})
        missing = {key: question for key, question in questions.items() if key not in answers}
        if missing:
            raise MoreInput(missing, json.dumps(answers) if keep else None)
        return {key: answers[key] for key in questions}

    async def _push(self, question: Json) -> Json:
        request = types.server_request_adapter.validate_python(question)
        on_this_stream = ServerMessageMetadata(related_request_id=self._ctx.request_id)
        answer = await self._ctx.session.send_request(request, ANSWERS[question["method"]], metadata=on_this_stream)
        said: Json = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
        return said

    async def progress(self, done: float, total: float) -> None:
        await self._ctx.session.report_progress(done, total)

    async def log(self, text: str) -> None:
        await self._ctx.session.send_log_message("info", text, related_request_id=self._ctx.request_id)

    async def changed(self, what: str) -> None:
        await self._bus.publish(ToolsListChanged() if what == "tools" else PromptsListChanged())
        if not self.modern and what == "tools":
            await self._ctx.session.send_tool_list_changed()
        elif not self.modern:
            await self._ctx.session.send_prompt_list_changed()

    async def close_stream(self) -> None:
        if self._ctx.close_sse_stream is not None:
            await self._ctx.close_sse_stream()


class Announcing(Server[Any]):
    """Declares to handshake clients, too, that its lists change."""

    def create_initialization_options(
        self, notification_options: NotificationOptions | None = None, *others: Any, **named: Any
    ) -> InitializationOptions:
        return super().create_initialization_options(NotificationOptions(True, True, True), *others, **named)


def handler(bus: InMemorySubscriptionBus) -> Callable[[Any, Any], Awaitable[Any]]:
    """Answers every request as `behaviour` does."""

    async def handle(ctx: Any, _params: Any) -> Any:
        caller = Caller2x(ctx, bus)
        try:
            said = await behaviour.answer(caller, ctx.method, dict(ctx.params or {}))
            return RESULTS.get(ctx.method, types.EmptyResult).model_validate(said)
        except MoreInput as more:
            return types.InputRequiredResult.model_validate({"inputRequests": more.questions, "requestState": more.state})
        except behaviour.Refusal as refusal:
            raise MCPError(refusal.code, refusal.message, refusal.data) from refusal
        except behaviour.NotThere as missing:
            raise MCPError(-32602 if caller.modern else -32002, "Resource not found", {"uri": missing.uri}) from missing

    return handle


def new_server() -> Announcing:
    """A server with all that is offered."""
    bus = InMemorySubscriptionBus()
    handle = handler(bus)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        server = Announcing(
            "conformance",
            version="1.0",
            instructions="A server for conformance tests.",
            get_tool_input_schema=offers.SCHEMAS.get,
            on_list_tools=handle,
            on_call_tool=handle,
            on_list_resources=handle,
            on_list_resource_templates=handle,
            on_read_resource=handle,
            on_subscribe_resource=handle,
            on_unsubscribe_resource=handle,
            on_subscriptions_listen=ListenHandler(bus),
            on_list_prompts=handle,
            on_get_prompt=handle,
            on_completion=handle,
            on_set_logging_level=handle,
        )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience="conformance"))
    return server


class ModernOnly:
    """The app without its older half: who begins with a handshake is told which revisions are spoken."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_legacy(scope):
            await _refuse(scope["method"], receive, send)
        else:
            await self._app(scope, receive, send)

    @staticmethod
    def _is_legacy(scope: Scope) -> bool:
        version = dict(scope["headers"]).get(b"mcp-protocol-version", b"").decode()
        return version in ("", *HANDSHAKE_PROTOCOL_VERSIONS)


async def _refuse(method: str, receive: Receive, send: Send) -> None:
    if method != "POST":
        await _respond(send, 405, b"", [(b"allow", b"POST")])
        return
    message = await receive()
    body = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    data = {"supported": list(MODERN_PROTOCOL_VERSIONS)}
    error = {"code": UNSUPPORTED_VERSION, "message": "Unsupported protocol version", "data": data}
    refusal = {"jsonrpc": "2.0", "id": json.loads(body).get("id"), "error": error}
    await _respond(send, 400, json.dumps(refusal).encode(), [(b"content-type", b"application/json")])


async def _respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(mode: str) -> None:
    """Serve until told to stop."""
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    events: Any = Events(EventMessage)
    app: ASGIApp = new_server().streamable_http_app(event_store=events, retry_interval=RETRY_MILLISECONDS)
    listener = loopback()
    # The other parser that uvicorn knows leaves the spaces after a header's value, and the SDK then refuses the value.
    # A polite shutdown must not wait for clients that hold a stream open.
    served = ModernOnly(app) if mode == "modern" else app
    config = uvicorn.Config(served, http="h11", log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(sys.argv[1] if len(sys.argv) > 1 else "dual")
