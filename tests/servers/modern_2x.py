"""A server on the SDK's 2.x line, for the modern revision: one tool for each thing that only such a server does.

    python -m tests.servers.modern_2x dual|modern|stdio

`dual` takes both generations over HTTP, `modern` refuses those that shake hands, `stdio` takes both on a pipe.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated, ToolsListChanged

Json = dict[str, Any]
OBJECT = {"type": "object"}
DONE = {"resultType": "complete"}
QUESTIONS: dict[str, Json] = {
    "name": {
        "method": "elicitation/create",
        "params": {"message": "who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}},
    },
    "visit": {"method": "elicitation/create", "params": {"mode": "url", "message": "go there", "url": "https://a.test/x"}},
    "poem": {
        "method": "sampling/createMessage",
        "params": {"messages": [{"role": "user", "content": {"type": "text", "text": "a poem"}}], "maxTokens": 9},
    },
    "roots": {"method": "roots/list"},
}
STATE = ' {"exact": "\u00e9\\u00e9"} '

bus = InMemorySubscriptionBus()
seen: list[Json] = []
cancelled: list[str] = []
header = "Region"
"""The header that the tool `located` declares. `rename` changes it, behind the back of whoever listed the tools."""


def tools() -> list[Json]:
    located = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": header}}}
    broken = {"type": "object", "properties": {"region": {"type": "array", "x-mcp-header": "Region"}}}
    plain = "echo work log whoami ask patient again hang seen rename publish"
    listed = [{"name": name, "inputSchema": OBJECT} for name in plain.split()]
    return [*listed, {"name": "located", "inputSchema": located}, {"name": "broken", "inputSchema": broken}]


def text(said: object) -> Json:
    return {**DONE, "content": [{"type": "text", "text": said if isinstance(said, str) else json.dumps(said)}]}


async def on_list_tools(ctx: Any, params: Any) -> Any:
    return {**DONE, "tools": tools(), "ttlMs": 5000, "cacheScope": "public"}


async def on_list_resources(ctx: Any, params: Any) -> Any:
    return {**DONE, "resources": [{"uri": "demo://one", "name": "one"}], "ttlMs": 0, "cacheScope": "private"}


async def on_read_resource(ctx: Any, params: Any) -> Any:
    if params.uri != "demo://one":
        raise MCPError(-32602, "Resource not found")
    return {**DONE, "contents": [{"uri": params.uri, "text": "uno"}], "ttlMs": 0, "cacheScope": "private"}


async def on_call_tool(ctx: Any, params: Any) -> Any:
    global header
    arguments = params.arguments or {}
    match params.name:
        case "echo" | "located":
            return text(arguments)
        case "work":
            for step in range(3):
                await ctx.session.report_progress(step, 3)
            return text("done")
        case "log":
            for level in ("debug", "warning"):
                await say(ctx, level)
            return text("done")
        case "whoami":
            return text(ctx.meta)
        case "ask" | "patient" | "again":
            return ask(params, arguments)
        case "hang":
            return await hang(ctx, arguments["who"])
        case "seen":
            return text({"requests": seen, "cancelled": cancelled})
        case "rename":
            header = arguments["to"]
            return text("done")
        case "publish":
            return await publish(arguments)
    raise MCPError(-32602, f"no tool {params.name}")


async def say(ctx: Any, level: str) -> None:
    """Log as a server does by itself: only what was asked for with this request."""
    asked = (ctx.meta or {}).get("io.modelcontextprotocol/logLevel")
    if asked is not None and level in ("warning", asked):
        note = types.LoggingMessageNotification(params=types.LoggingMessageNotificationParams(level=level, data=level))
        await ctx.session.send_notification(note, related_request_id=ctx.request_id)


def ask(params: Any, arguments: Json) -> Json:
    """`ask` puts questions once, `patient` makes the client come back with nothing but its state, `again` never ends."""
    rounds = int((params.request_state or "0").rsplit("#")[-1]) if params.name == "patient" else 0
    if params.name == "patient":
        return text("at last") if rounds == 3 else {"resultType": "input_required", "requestState": f"{STATE}#{rounds + 1}"}
    if params.input_responses is not None and params.name == "ask":
        answers = {key: json.loads(answer.model_dump_json(exclude_none=True)) for key, answer in params.input_responses.items()}
        return text({"answers": answers, "exact": params.request_state == STATE})
    asked = {key: QUESTIONS[key] for key in arguments.get("questions", ["name"])}
    return {"resultType": "input_required", "inputRequests": asked, "requestState": STATE}


async def hang(ctx: Any, who: str) -> Json:
    await ctx.session.report_progress(0, 1)
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        cancelled.append(who)
        raise


async def publish(arguments: Json) -> Json:
    if uri := arguments.get("uri"):
        await bus.publish(ResourceUpdated(uri=uri))
    if arguments.get("lists"):
        await bus.publish(ToolsListChanged())
        await bus.publish(ResourcesListChanged())
    if arguments.get("end"):
        listen.close()
    return text("done")


listen = ListenHandler(bus)
server: Server[Any] = Server(
    "modern-2x",
    version="1",
    instructions="Be brief.",
    on_list_tools=on_list_tools,
    on_call_tool=on_call_tool,
    on_list_resources=on_list_resources,
    on_read_resource=on_read_resource,
    on_subscriptions_listen=listen,
)


class Door:
    """Notes every request before the SDK sees it; refuses those without a modern revision if it is to."""

    def __init__(self, app: Any, modern_only: bool) -> None:
        self._app = app
        self._modern_only = modern_only

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen.append({"method": scope["method"], "rpc": headers.get("mcp-method", ""), "headers": headers})
        if self._modern_only and headers.get("mcp-protocol-version") != "2026-07-28":
            await refuse(send)
        else:
            await self._app(scope, receive, send)


async def refuse(send: Any) -> None:
    data = {"supported": ["2026-07-28"], "requested": "2025-11-25"}
    error = {"code": -32022, "message": "Unsupported protocol version", "data": data}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
    await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def serve(modern_only: bool) -> None:
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT") or 0)))
    # asyncio does this only for sockets that name their protocol; without it each event waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    config = uvicorn.Config(Door(server.streamable_http_app(), modern_only), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


async def serve_pipe() -> None:
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        asyncio.run(serve_pipe())
    else:
        serve(sys.argv[1] == "modern")
