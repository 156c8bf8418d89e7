"""Many come and go, and nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from mcpgateway.auth import credentials
from mcpgateway.services import catalog, upstream
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.process import Server
from tests.soak.wire import Wire

WARM_UP = 2_000
PRINCIPALS = 10_000
AT_ONCE = 20
GROWTH = 1.10
STATM = Path("/proc/self/statm")

CACHES = {
    "Entry": catalog.MAX_ENTRIES,
    "Listing": 4 * catalog.MAX_ENTRIES,
    "Welcome": upstream.REMEMBERED,
    "Credential": credentials.REMEMBERED,
}
"""What is kept of callers who have gone, and how many at most. Of everything else nothing is kept."""


def token_of(number: int) -> str:
    return f"token-of-{number}"


def document(url: str) -> dict[str, Any]:
    """Every caller shows a credential of its own, so that nothing is the same for two of them."""
    hashes = {f"p{number}": "sha256:" + sha256(token_of(number).encode()).hexdigest() for number in range(WARM_UP + PRINCIPALS)}
    server = {"url": url, "type": "http", "sessions": "bound", "forward_headers": ["x-api-key"]}
    return {"mcpServers": {"up": server}, "gateway": {"auth": {"tokens": hashes}}}


class Visitor:
    """One principal's visit: a session, a call, the end."""

    def __init__(self, wire: Wire, number: int) -> None:
        self._wire = wire
        self._headers = {
            "authorization": f"Bearer {token_of(number)}",
            "x-api-key": f"key-of-{number}",
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
        }

    async def visit(self) -> None:
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "visitor", "version": "1"}}
        await self._post("initialize", params)
        result = await self._post("tools/call", {"name": "up__counter", "arguments": {}})
        assert json.loads(result["content"][0]["text"])["count"] == 1, "a session of its own"
        answer = await self._wire.send("DELETE", "/mcp", self._headers)
        await answer.read()
        assert answer.status == 204

    async def _post(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = await self._wire.send("POST", "/mcp", self._headers, json.dumps(message).encode())
        self._headers.setdefault("mcp-session-id", answer.headers.get("mcp-session-id", ""))
        result: dict[str, Any] = (await answer.read())[-1]["result"]
        return result


async def come_and_go(gateway: RunningGateway, numbers: Iterable[int]) -> None:
    """All of them, some at once; then nobody is there and nothing is under way."""
    left = iter(numbers)
    wire = Wire(gateway.port)

    async def one_after_the_other() -> None:
        for number in left:
            await Visitor(wire, number).visit()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_the_other())
    await wire.aclose()
    pool = gateway.gateway.pool
    # The gateway's own session is all that stays.
    await gateway.until(lambda: pool.get_metrics()["open"] == 1)


def census() -> Counter[str]:
    """How many objects of each of our types are alive."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if str(type(each).__module__).startswith("mcpgateway"))


def figures(gateway: RunningGateway) -> dict[str, int]:
    """The sizes of what is kept by caller, by session or by call."""
    inner = gateway.gateway
    pool = inner.pool.get_metrics()
    gauges = {name: pool[name] for name in ("pool_key_count", "open", "idle", "leased", "opening", "closing", "waiting")}
    return gauges | {"sessions": len(inner.sessions), "conversations": len(inner.announcer.conversations)}


def memory() -> dict[str, int]:
    """Blocks of Python's own, and, where the system tells, pages of the process."""
    gc.collect()
    return {"blocks": sys.getallocatedblocks()} | ({"pages": int(STATM.read_text().split()[1])} if STATM.exists() else {})


async def test_p16_ten_thousand_principals_come_and_go_and_memory_is_where_it_was() -> None:
    with Server([sys.executable, "-m", "tests.soak.quiet"]) as server:
        async with serving(document(server.url)) as gateway, asyncio.timeout(120):
            await come_and_go(gateway, range(WARM_UP))
            objects, kept, used = census(), figures(gateway), memory()
            await come_and_go(gateway, range(WARM_UP, WARM_UP + PRINCIPALS))
            now = memory()
            assert figures(gateway) == kept
            grown = {name: count for name, count in (census() - objects).items() if name not in CACHES and count > AT_ONCE}
            assert not grown, f"of these more are alive than before: {grown}"
            assert all(census()[name] <= limit + AT_ONCE for name, limit in CACHES.items())
            for name, before in used.items():
                assert now[name] <= before * GROWTH, f"{name}: {before} before, {now[name]} after"
