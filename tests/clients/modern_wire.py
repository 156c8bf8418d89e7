"""A client of 2026-07-28 that shows a test the wire itself. Every request says all that this revision asks for, unless told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

from tests.clients.wire import MODERN, Message, Wire

REVISION = "2026-07-28"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
SERVER_INFO = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"

EVERYTHING: Message = {"elicitation": {"form": {}, "url": {}}, "roots": {}, "sampling": {"tools": {}}}
"""The capabilities of a client that can be asked anything."""

NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


class ModernWire(Wire):
    """`capabilities` are declared with every request; `meta` is added to what each says in `_meta`."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        capabilities: Message | None = None,
        meta: Message | None = None,
        unchecked: str = "",
    ) -> None:
        super().__init__(url, headers, unchecked=unchecked)
        self._capabilities = capabilities or {}
        self._meta = meta or {}

    def envelope(self) -> Message:
        """What a request says in `_meta`."""
        info = {"name": "modern wire", "version": "1"}
        return {MODERN: REVISION, CAPABILITIES: self._capabilities, CLIENT_INFO: info, **self._meta}

    def request_message(self, method: str, params: Message | None = None) -> Message:
        message = super().request_message(method, params)
        own = (params or {}).get("_meta", {})
        return {**message, "params": {**(params or {}), "_meta": {**self.envelope(), **own}}}

    async def again(self, method: str, params: Message, asked: Message, answers: Message) -> Message:
        """The response to the next round of a request that was answered with the questions `asked`."""
        more = {"inputResponses": answers, "requestState": asked["result"]["requestState"]}
        return await self.request(method, {**params, **more})

    @contextlib.asynccontextmanager
    async def listening(self, id: int | str = "listen", **wanted: Any) -> AsyncIterator[AsyncIterator[Message]]:
        """A stream of `subscriptions/listen`; the first message is the acknowledgement."""
        message = {**self.request_message("subscriptions/listen", {"notifications": wanted}), "id": id}
        async with self.exchange(message) as messages:
            yield messages

    def _posting(
        self, message: object, headers: Mapping[str, str | None] | None
    ) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        return super()._posting(message, {**_mirrored(message), **(headers or {})})


def _mirrored(message: object) -> dict[str, str | None]:
    """The headers that repeat parts of a message."""
    found: dict[str, str | None] = {"mcp-protocol-version": REVISION}
    if isinstance(message, bytes):
        with contextlib.suppress(ValueError):
            message = json.loads(message)
    if isinstance(message, dict):
        method, params = message.get("method"), message.get("params")
        found["mcp-method"] = method if isinstance(method, str) else None
        name = params.get(NAMED.get(str(method), "")) if isinstance(params, dict) else None
        found["mcp-name"] = name if isinstance(name, str) else None
    return found
