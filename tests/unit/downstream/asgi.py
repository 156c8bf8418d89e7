"""The server's side of ASGI, in memory: a test sends requests to an application and reads what it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

from mcpgateway.downstream.exchange import AsgiExchange

Event = MutableMapping[str, Any]

MCP_HEADERS = {"host": "localhost", "content-type": "application/json", "accept": "application/json, text/event-stream"}


class Exchange:
    """One request and what is answered to it. Its client stays until `leave`; its answer is taken only while `reads` is set."""

    def __init__(self, *body: bytes) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self.left = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self._news = asyncio.Event()
        self._parts = list(body) or [b""]

    def __repr__(self) -> str:
        return f"<Exchange {self.status} {len(self.body)} bytes{' complete' if self.complete else ''}>"

    @property
    def messages(self) -> list[Any]:
        """The JSON messages of the answer so far, from a plain body or an event stream."""
        if self.headers.get("content-type") == "text/event-stream":
            events = self.body.decode().split("\n\n")
            data = [event.partition("data: ")[2] for event in events]
            return [json.loads(each) for each in data if each]
        return [json.loads(self.body)] if self.body else []

    def asgi(self, method: str = "POST", path: str = "/mcp") -> AsgiExchange:
        """This request as the edges know it."""
        return AsgiExchange(scope(method, path, {}), self.receive, self.send)

    async def receive(self) -> Event:
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Event) -> None:
        await self.reads.wait()
        if event["type"] == "http.response.start":
            if self.status:
                raise RuntimeError("the response has begun already")
            self.status = event["status"]
            self.headers = {name.decode(): value.decode() for name, value in event["headers"]}
        else:
            if not self.status or self.complete:
                raise RuntimeError("the response has not begun, or is complete")
            self.body += event.get("body", b"")
            self.complete = not event.get("more_body", False)
        self._news.set()

    def leave(self) -> None:
        """The client goes away."""
        self.left.set()

    async def until_messages(self, count: int) -> list[Any]:
        """The messages, once there are that many."""
        async with asyncio.timeout(5):
            while len(self.messages) < count:
                self._news.clear()
                await self._news.wait()
        return self.messages


def scope(method: str, path: str, headers: dict[str, str]) -> Event:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": raw}


async def ask(app: Any, body: bytes | object, headers: dict[str, str] | None = None, path: str = "/mcp") -> Exchange:
    """POST a message, or bytes as they are, and read the whole answer."""
    exchange = Exchange(body if isinstance(body, bytes) else json.dumps(body).encode())
    async with asyncio.timeout(5):
        await app(scope("POST", path, MCP_HEADERS | (headers or {})), exchange.receive, exchange.send)
    return exchange
