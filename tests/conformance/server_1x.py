"""The conformance fixture on the SDK's 1.x line: a server as most are, which knows the handshake revisions alone.

    python -m tests.conformance.server_1x

It serves on loopback, on the port in PORT or on one of the system's choice, and prints which as one JSON line.
"""

# mypy: ignore-errors
# It runs on an SDK that is not installed where the types are checked.

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from mcp import types
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.streamable_http import EventMessage
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import McpError
from mcp.shared.message import ServerMessageMetadata
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.conformance import behaviour
from tests.conformance.listening import RETRY_MILLISECONDS, Events, loopback

Json = dict[str, Any]
ANSWERS = {
    "elicitation/create": types.ElicitResult,
    "roots/list": types.ListRootsResult,
    "sampling/createMessage": types.CreateMessageResult,
}
REQUESTS = {
    types.CallToolRequest: types.CallToolResult,
    types.CompleteRequest: types.CompleteResult,
    types.GetPromptRequest: types.GetPromptResult,
    types.ListPromptsRequest: types.ListPromptsResult,
    types.ListResourcesRequest: types.ListResourcesResult,
    types.ListResourceTemplatesRequest: types.ListResourceTemplatesResult,
    types.ListToolsRequest: types.ListToolsResult,
    types.ReadResourceRequest: types.ReadResourceResult,
    types.SetLevelRequest: types.EmptyResult,
    types.SubscribeRequest: types.EmptyResult,
    types.UnsubscribeRequest: types.EmptyResult,
}
LOCAL = ["127.0.0.1:*", "localhost:*", "[::1]:*"]


class Caller1x:
    """behaviour.Caller on this line. As its SDK does, it asks clients whether or not they said that they can answer."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._related = ctx.request_id
        params = ctx.session.client_params
        self.capabilities: Json = params.capabilities.model_dump(by_alias=True, exclude_none=True) if params else {}

    def need(self, capability: str) -> None:
        """Nothing: no revision on this line has an error for a capability that is missing."""

    async def ask(self, questions: dict[str, Json], *, keep: bool = False) -> dict[str, Json]:
        answers = await asyncio.gather(*map(self._push, questions.values()))
        return dict(zip(questions, answers, strict=True))

    async def _push(self, question: Json) -> Json:
        answer = await self._ctx.session.send_request(
            types.ServerRequest.model_validate(question),
            ANSWERS[question["method"]],
            metadata=ServerMessageMetadata(related_request_id=self._related),
        )
        return answer.model_dump(mode="json", by_alias=True, exclude_none=True)

    async def progress(self, done: float, total: float) -> None:
        token = self._ctx.meta.progressToken if self._ctx.meta else None
        if token is not None:
            await self._ctx.session.send_progress_notification(token, done, total, related_request_id=str(self._related))

    async def log(self, text: str) -> None:
        await self._ctx.session.send_log_message("info", text, related_request_id=self._related)

    async def changed(self, what: str) -> None:
        session = self._ctx.session
        await (session.send_tool_list_changed() if what == "tools" else session.send_prompt_list_changed())

    async def close_stream(self) -> None:
        if self._ctx.close_sse_stream is not None:
            await self._ctx.close_sse_stream()


class Announcing(Server):
    """Declares that its lists change, and that its resources can be subscribed to."""

    def get_capabilities(self, _options: NotificationOptions, experimental: Json) -> types.ServerCapabilities:
        capabilities = super().get_capabilities(NotificationOptions(True, True, True), experimental)
        capabilities.resources.subscribe = True
        return capabilities


def new_server() -> Announcing:
    """A server with all that is offered."""
    server = Announcing("conformance-1x", version="1.0", instructions="A server for conformance tests.")

    async def handle(request: Any) -> types.ServerResult:
        params = request.params.model_dump(mode="json", by_alias=True, exclude_none=True) if request.params else {}
        try:
            said = await behaviour.answer(Caller1x(server.request_context), request.method, params)
        except behaviour.Refusal as refusal:
            raise McpError(types.ErrorData(code=refusal.code, message=refusal.message, data=refusal.data)) from refusal
        except behaviour.NotThere as missing:
            raise McpError(types.ErrorData(code=-32002, message="Resource not found", data={"uri": missing.uri})) from missing
        return types.ServerResult(REQUESTS[type(request)].model_validate(said))

    server.request_handlers.update(dict.fromkeys(REQUESTS, handle))
    return server


def new_app() -> Starlette:
    """The server at /mcp, with sessions, and streams that can be resumed."""
    safe = TransportSecuritySettings(allowed_hosts=LOCAL, allowed_origins=[f"http://{host}" for host in LOCAL])
    manager = StreamableHTTPSessionManager(
        new_server(), event_store=Events(EventMessage), security_settings=safe, retry_interval=RETRY_MILLISECONDS
    )

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    return Starlette(routes=[Mount("/", app=manager.handle_request)], lifespan=lifespan)


if __name__ == "__main__":
    # A polite shutdown must not wait for clients that hold a stream open.
    settings = uvicorn.Config(new_app(), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(settings).run(sockets=[loopback()])
