"""The client's side of a call, as an upstream session sees it: a client, and an ear that writes down what it hears."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from mcpgateway.errors import RpcError
from mcpgateway.protocol.call import Call
from mcpgateway.protocol.jsonrpc import raw

Heard = tuple[str, dict[str, Any]]


class Person:
    """A client with nothing special about it."""

    id = "conversation-1"
    user = "alice"
    version = "2025-11-25"
    capabilities = b"{}"
    client_info = b'{"name":"test","version":"1"}'
    log_level: str | None = None

    def push(self, method: str, params: bytes) -> None:
        return

    async def ask(self, method: str, params: bytes) -> bytes:
        raise RpcError.of(-32601, "not here")


class Ear:
    """A channel and a listener in one. Questions wait until `answer` has been set; it may be an error."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Heard] = asyncio.Queue()
        self.questions: asyncio.Queue[Heard] = asyncio.Queue()
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.cut_short = 0

    def __repr__(self) -> str:
        return f"<Ear with {self.heard.qsize()} notifications and {self.questions.qsize()} questions unread>"

    def notify(self, method: str, params: bytes) -> None:
        self.heard.put_nowait((method, json.loads(params)))

    notified = notify

    async def ask(self, method: str, params: bytes) -> bytes:
        self.questions.put_nowait((method, json.loads(params)))
        try:
            return await asyncio.shield(self.answer)
        except asyncio.CancelledError:
            self.cut_short += 1
            raise

    asked = ask

    async def next(self) -> Heard:
        """The next notification."""
        async with asyncio.timeout(10):
            return await self.heard.get()

    async def next_question(self) -> Heard:
        async with asyncio.timeout(10):
            return await self.questions.get()


def call(
    method: str = "ping", *, token: object = None, headers: bytes = b"", timeout_seconds: float = 60.0, **params: Any
) -> Call:
    """A call of a `Person`; `token` asks for progress under it."""
    if token is not None:
        params["_meta"] = {"progressToken": token}
    fields = {name: raw(value) for name, value in params.items()}
    return Call(method, fields, client=Person(), headers=headers, timeout_seconds=timeout_seconds)


def tool_call(
    name: str, *, token: object = None, headers: bytes = b"", timeout_seconds: float = 60.0, **arguments: Any
) -> Call:
    """A `tools/call`."""
    return call("tools/call", token=token, headers=headers, timeout_seconds=timeout_seconds, name=name, arguments=arguments)
