"""Many come and go, and nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from mcpgateway.auth import credentials
from mcpgateway.config import AuthConfig
from mcpgateway.config.values import TokenConfig
from mcpgateway.services import catalog, upstream
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.process import Server
from tests.soak.wire import Wire

WARM_UP = 2_000
PRINCIPALS = 10_000
AT_ONCE = 20
SLACK = 100
"""What is under way at one moment or another, connections mostly, may differ by so much."""
GROWTH = 1.10
STATM = Path("/proc/self/statm")

CACHES = {
    "Entry": catalog.MAX_ENTRIES,
    "Listing": 4 * catalog.MAX_ENTRIES,
    "Welcome": upstream.REMEMBERED,
    "Catalog._entries": catalog.MAX_ENTRIES,
    "Upstream._welcomes": upstream.REMEMBERED,
    "_HeaderSet._known": credentials.REMEMBERED,
}
"""What is kept of callers who have gone, and how much at most. Of everything else nothing is kept."""


def token_of(number: int) -> str:
    return f"token-of-{number}"


def document(url: str) -> dict[str, Any]:
    """Every caller shows a credential of its own, so that nothing is the same for two of them."""
    server = {"url": url, "type": "http", "sessions": "bound", "forward_headers": ["x-api-key"]}
    return {"mcpServers": {"up": server}}


async def let_in(gateway: RunningGateway, principals: int) -> None:
    """Give each of so many principals a token."""
    digests = (sha256(token_of(number).encode()).hexdigest() for number in range(principals))
    tokens = tuple(TokenConfig(f"p{number}", digest) for number, digest in enumerate(digests))
    settings = gateway.gateway.config
    changed = msgspec.structs.replace(settings.gateway, auth=AuthConfig(tokens))
    await gateway.gateway.apply(msgspec.structs.replace(settings, gateway=changed))


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
    """How many objects of each of our types are alive, and how many things the largest container of each attribute holds."""
    gc.collect()
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        if str(kind.__module__).startswith("mcpgateway"):
            found[kind.__name__] += 1
            for name, value in attributes(each):
                if isinstance(value, dict | list | set | deque):
                    found[f"{kind.__name__}.{name}"] = max(found[f"{kind.__name__}.{name}"], len(value))
    return found


def attributes(each: object) -> Iterator[tuple[str, object]]:
    yield from getattr(each, "__dict__", {}).items()
    for kind in type(each).__mro__:
        for name in getattr(kind, "__slots__", ()):
            yield name, getattr(each, name, None)


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
            await let_in(gateway, WARM_UP + PRINCIPALS)
            await come_and_go(gateway, range(WARM_UP))
            objects, kept, used = census(), figures(gateway), memory()
            await come_and_go(gateway, range(WARM_UP, WARM_UP + PRINCIPALS))
            now = memory()
            assert figures(gateway) == kept
            alive = census()
            grown = {name: count for name, count in (alive - objects).items() if name not in CACHES and count > SLACK}
            assert not grown, f"of these there is more than before: {grown}"
            assert all(alive[name] <= limit + 1 for name, limit in CACHES.items()), alive
            for name, before in used.items():
                assert now[name] <= before * GROWTH, f"{name}: {before} before, {now[name]} after"
