"""What a server says to one caller of itself is not told to another."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.clients.modern_wire import ModernWire
from tests.clients.wire import Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import serving
from tests.servers.answering import AnsweringServer
from tests.servers.http11 import Request, reply


def result_of(request: Request, method: str) -> dict[str, Any] | None:
    key = request.headers.get("x-key", "nobody")
    if method == "initialize":
        capabilities = {} if key == "b" else {"tools": {}}
        info = {"name": "up", "version": "1"}
        return {
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "serverInfo": info,
            "instructions": f"private to {key}",
        }
    if method == "tools/list":
        return {"tools": [{"name": "one", "inputSchema": {"type": "object"}}]}
    return {} if method == "ping" else None


class TwoFacedServer(AnsweringServer):
    """Tells each account something else, and offers tools to all but Bob."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> None:
        message = json.loads(request.body or b"{}")
        result = result_of(request, message.get("method", ""))
        if "id" not in message:
            await reply(writer, 405 if request.method == "GET" else 202)
        elif result is None:
            error = {"code": -32601, "message": "Method not found"}
            await reply(writer, 200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
        else:
            body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
            session = {"mcp-session-id": "s-" + request.headers.get("x-key", "none")}
            await reply(writer, 200, body, session if message["method"] == "initialize" else None)


def document(url: str) -> dict[str, Any]:
    credentials = {"alice": {"headers": {"X-Key": "a"}}, "bob": {"headers": {"X-Key": "b"}}}
    return {"mcpServers": {"up": {"url": url, "credentials": credentials}}, "gateway": letting_in("alice", "bob")}


async def test_i7_instructions_for_one_account_are_not_told_to_another() -> None:
    async with TwoFacedServer() as server, serving(document(server.url)) as gateway, asyncio.timeout(20):
        async with Wire(gateway.server("up"), bearer("bob")) as bob, Wire(gateway.url, bearer("alice")) as alice:
            await bob.initialize()
            await alice.initialize()
            assert "private to b" in bob.welcome["instructions"]
            assert "private to b" not in alice.welcome["instructions"]
        async with ModernWire(gateway.url, bearer("alice")) as modern:
            discovered = await modern.request("server/discover")
            assert "private to b" not in discovered["result"]["instructions"]


@pytest.mark.parametrize("kind", [Wire, ModernWire])
async def test_i7_that_one_account_has_no_tools_takes_none_from_another(kind: type[Wire]) -> None:
    async with TwoFacedServer() as server, serving(document(server.url)) as gateway, asyncio.timeout(20):
        async with kind(gateway.server("up"), bearer("alice")) as alice, Wire(gateway.server("up"), bearer("bob")) as bob:
            if kind is Wire:
                await alice.initialize()
            await bob.initialize()
            await bob.request("ping")
            tools = (await alice.request("tools/list"))["result"]["tools"]
            assert [tool["name"] for tool in tools] == ["one"]
