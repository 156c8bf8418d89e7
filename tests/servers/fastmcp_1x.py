"""An MCP server on the SDK's 1.x line that does all that an upstream can do to a gateway.

    python fastmcp_1x.py stateful|stateless|sse|stdio

It serves on loopback, on the port in PORT or on one of the system's choice, and prints which as one JSON line.
"""

# mypy: ignore-errors
# It runs on an SDK that is not installed where the types are checked.

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import weakref

import uvicorn
from mcp import types
from mcp.server.fastmcp import Context, FastMCP, Image
from mcp.server.lowlevel import NotificationOptions
from mcp.server.session import ServerSession
from mcp.shared.message import ServerMessageMetadata
from pydantic import AnyUrl, BaseModel

PIXEL = b"\x89PNG\r\n\x1a\n" + bytes(range(64))  # looks like an image to whoever does not decode it
TOUCHABLE = "demo://touchable"
COLOURS = ["red", "green", "blue", "black"]
READ_ONLY = types.ToolAnnotations(readOnlyHint=True)
NOT_REPEATABLE = types.ToolAnnotations(readOnlyHint=False, idempotentHint=False)


class PerSession:
    """What the server remembers of one session."""

    def __init__(self) -> None:
        self.count = 0
        self.level = "none"


class Sum(BaseModel):
    sum: int


class Count(BaseModel):
    count: int
    session: str


class Answer(BaseModel):
    name: str


sessions: weakref.WeakKeyDictionary[ServerSession, PerSession] = weakref.WeakKeyDictionary()
subscribers: weakref.WeakSet[ServerSession] = weakref.WeakSet()
cancelled: dict[str, asyncio.Event] = {}

mode = sys.argv[1] if len(sys.argv) > 1 else "stateful"
server = FastMCP(
    "fastmcp-1x",
    instructions="A server for tests.",
    stateless_http=mode == "stateless",
    json_response=mode == "stateless",
    log_level="WARNING",
)
core = server._mcp_server


def memory(ctx: Context) -> PerSession:
    return sessions.setdefault(ctx.session, PerSession())


def headers_of(ctx: Context) -> dict[str, str]:
    request = ctx.request_context.request
    return {} if request is None else dict(request.headers)


def session_name(ctx: Context) -> str:
    return headers_of(ctx).get("mcp-session-id") or f"session-{id(ctx.session)}"


@server.tool(annotations=READ_ONLY)
def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool(annotations=READ_ONLY)
def add(a: int, b: int) -> Sum:
    """Add two numbers."""
    return Sum(sum=a + b)


@server.tool()
def image() -> Image:
    """A small picture."""
    return Image(data=PIXEL, format="png")


@server.tool()
async def slow(ms: int) -> str:
    """Answer after a while."""
    await asyncio.sleep(ms / 1000)
    return f"slept {ms} ms"


@server.tool(annotations=NOT_REPEATABLE)
def counter(ctx: Context) -> Count:
    """Count the calls of this session."""
    state = memory(ctx)
    state.count += 1
    return Count(count=state.count, session=session_name(ctx))


@server.tool()
async def progress(n: int, ctx: Context) -> str:
    """Report n steps."""
    for step in range(1, n + 1):
        await ctx.report_progress(step, n, f"step {step}")
    return f"{n} steps"


@server.tool()
async def log(text: str, ctx: Context) -> str:
    """Say it as a log message."""
    await ctx.info(text)
    return "logged"


@server.tool()
async def elicit(question: str, ctx: Context) -> str:
    """Ask the user for a name."""
    outcome = await ctx.elicit(question, Answer)
    return f"{outcome.action} {outcome.data.name}" if outcome.action == "accept" else outcome.action


@server.tool()
async def sample(prompt: str, ctx: Context) -> str:
    """Ask the client's model."""
    message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=prompt))
    answer = await ctx.session.create_message([message], max_tokens=20, related_request_id=ctx.request_id)
    return f"{answer.model}: {answer.content.text}"


@server.tool()
async def roots(ctx: Context) -> str:
    """Ask for the client's roots on the stream of this call."""
    answer = await ctx.session.send_request(
        types.ServerRequest(types.ListRootsRequest()),
        types.ListRootsResult,
        metadata=ServerMessageMetadata(related_request_id=ctx.request_id),
    )
    return " ".join(str(root.uri) for root in answer.roots)


@server.tool()
async def roots_apart(ctx: Context) -> str:
    """Ask for the client's roots outside any call, as `list_roots` of the SDK does: on the session's own stream."""
    answer = await ctx.session.list_roots()
    return " ".join(str(root.uri) for root in answer.roots)


@server.tool()
def fail(text: str) -> str:
    """Fail, as tools do."""
    raise ValueError(text)


@server.tool()
def whoami(ctx: Context) -> str:
    """The headers of this call, as JSON."""
    return json.dumps(headers_of(ctx))


@server.tool()
def level(ctx: Context) -> str:
    """The log level that this session has asked for."""
    return memory(ctx).level


@server.tool()
async def add_tool_live(name: str, ctx: Context) -> str:
    """Offer one tool more from now on, and tell this session so."""
    server.add_tool(lambda: name, name=name, description="Added while running.")
    await ctx.session.send_tool_list_changed()
    return name


@server.tool(structured_output=False)
def big(kib: int = 1024) -> str:
    """Much text: 1 MiB, or as much as is asked for."""
    return "0123456789abcdef" * 64 * kib


@server.tool()
async def wait(token: str, ctx: Context) -> str:
    """Report that it has begun, then wait until it is cancelled."""
    event = cancelled.setdefault(token, asyncio.Event())
    await ctx.report_progress(0, 1, "begun")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        event.set()
        raise
    return "never"


@server.tool()
async def was_cancelled(token: str) -> str:
    """'yes' once the `wait` of that token has been cancelled, 'no' if that takes too long."""
    event = cancelled.setdefault(token, asyncio.Event())
    try:
        async with asyncio.timeout(5):
            await event.wait()
    except TimeoutError:
        return "no"
    return "yes"


@server.tool()
async def touch(ctx: Context) -> str:
    """Tell the subscribers that the touchable resource has changed."""
    for session in list(subscribers):
        await session.send_resource_updated(AnyUrl(TOUCHABLE))
    return str(len(subscribers))


@server.resource("demo://text", mime_type="text/plain")
def text_resource() -> str:
    """Plain text."""
    return "some text"


@server.resource("demo://blob", mime_type="application/octet-stream")
def blob_resource() -> bytes:
    """Bytes."""
    return PIXEL


@server.resource(TOUCHABLE, mime_type="text/plain")
def touchable_resource() -> str:
    """Text that `touch` reports as changed."""
    return "touchable"


@server.resource("demo://items/{colour}", mime_type="text/plain")
def item(colour: str) -> str:
    """One item of a colour."""
    return f"a {colour} item"


@server.prompt()
def plain() -> str:
    """No arguments."""
    return "Say hello."


@server.prompt()
def painted(colour: str) -> str:
    """One argument."""
    return f"Paint it {colour}."


@server.completion()
async def complete(
    ref: types.PromptReference | types.ResourceTemplateReference,
    argument: types.CompletionArgument,
    context: types.CompletionContext | None,
) -> types.Completion | None:
    return types.Completion(values=[colour for colour in COLOURS if colour.startswith(argument.value)], hasMore=False)


@core.subscribe_resource()
async def subscribe(uri: AnyUrl) -> None:
    if str(uri) == TOUCHABLE:
        subscribers.add(core.request_context.session)


@core.unsubscribe_resource()
async def unsubscribe(uri: AnyUrl) -> None:
    subscribers.discard(core.request_context.session)


@core.set_logging_level()
async def set_level(level: types.LoggingLevel) -> None:
    sessions.setdefault(core.request_context.session, PerSession()).level = level


def announce_everything() -> None:
    """Declare `listChanged` and `subscribe`, for which FastMCP has no setting."""
    announced = core.get_capabilities

    def get_capabilities(_options: NotificationOptions, experimental: dict[str, dict[str, object]]) -> types.ServerCapabilities:
        capabilities = announced(NotificationOptions(True, True, True), experimental)
        capabilities.resources.subscribe = True
        return capabilities

    core.get_capabilities = get_capabilities


def serve() -> None:
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT") or 0)))
    # asyncio does this only for sockets that name their protocol; without it each event waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    app = server.sse_app() if mode == "sse" else server.streamable_http_app()
    # A polite shutdown must not wait for clients that hold a stream open.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


announce_everything()
if mode == "stdio":
    server.run("stdio")
else:
    serve()
