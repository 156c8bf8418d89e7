"""A small MCP server in the test's own event loop, of which a test decides every answer, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from tests.fakes.scripted import EVENT_STREAM, Script, ScriptedServer, Talk, answer
from tests.servers.http11 import Request, chunk

Message = dict[str, Any]
CAPABILITIES = {"tools": {}, "resources": {}, "prompts": {}, "completions": {}, "logging": {}}
LISTS = {
    "tools/list": {
        "tools": [
            {"name": "once", "inputSchema": {"type": "object"}},
            {"name": "look", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
        ]
    },
    "resources/list": {"resources": [{"uri": "demo://one", "name": "one"}]},
    "resources/templates/list": {"resourceTemplates": []},
    "prompts/list": {"prompts": [{"name": "greet"}]},
}


class McpScript:
    """A Streamable HTTP server with sessions. What is no list and no handshake is answered by `take`, if it is set."""

    def __init__(self) -> None:
        self.requests: list[tuple[Request, Message]] = []
        self.take: Callable[[Talk, Request, Message], Awaitable[None]] | None = None
        self.port = 0
        self.server: ScriptedServer | None = None
        self._sessions = 0

    def __repr__(self) -> str:
        return f"<McpScript {len(self.requests)} requests>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def of(self, method: str) -> list[Message]:
        """The messages of this method so far."""
        return [message for _, message in self.requests if message.get("method") == method]

    async def play(self, talk: Talk) -> None:
        while True:
            request = await talk.request()
            message = json.loads(request.body) if request.body else {}
            self.requests.append((request, message))
            await self.answer(talk, request, message)

    async def answer(self, talk: Talk, request: Request, message: Message) -> None:
        """Answer one request."""
        method = message.get("method", "")
        if method == "initialize":
            self._sessions += 1
            hello = {"protocolVersion": "2025-11-25", "capabilities": CAPABILITIES, "serverInfo": {"name": "s", "version": "1"}}
            await talk.say(answer(json_of(message, json.dumps(hello)), b"Mcp-Session-Id: s-%d" % self._sessions))
        elif request.method == "GET":
            await talk.say(answer(b"", status=b"405 Method Not Allowed"))
        elif request.method == "DELETE" or "id" not in message or "method" not in message:
            await talk.say(answer(b"", status=b"202 Accepted"))
        elif method in LISTS or method == "ping":
            await talk.say(answer(json_of(message, json.dumps(LISTS.get(method, {})))))
        elif self.take is not None:
            await self.take(talk, request, message)
        else:
            await talk.say(answer(json_of(message, '{"content":[]}')))


def json_of(message: Message, result: str) -> bytes:
    """The response to a request, with exactly this result."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (json.dumps(message["id"]).encode(), result.encode())


async def say_json(talk: Talk, message: Message, result: str) -> None:
    await talk.say(answer(json_of(message, result)))


async def say_events(talk: Talk, *messages: bytes) -> None:
    """A whole event stream of these messages."""
    await talk.say(EVENT_STREAM + b"".join(chunk(b"data: " + message + b"\n\n") for message in messages) + chunk(b""))


@contextlib.asynccontextmanager
async def playing(script: McpScript | None = None, play: Script | None = None) -> AsyncIterator[McpScript]:
    """A server that plays the script, or `play` around it, for the length of the block."""
    script = script or McpScript()
    script.server = ScriptedServer(play or script.play)
    await script.server.start()
    script.port = script.server.port
    try:
        yield script
    finally:
        async with asyncio.timeout(10):
            await script.server.stop()
