"""A client that shows a test the wire itself: statuses, headers, events, and bytes as they came.

Every message that comes must be valid in the revision that is spoken; a test that wants to see others says why.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from tests.schemas import validity

Message = dict[str, Any]
ACCEPT = "application/json, text/event-stream"
REVISION = validity.LATEST_LEGACY
MODERN = "io.modelcontextprotocol/protocolVersion"
"""The key in `_meta` with which a modern request says its revision."""


@dataclass
class Reply:
    """One HTTP answer: JSON bodies and event streams both give `messages`; `body` is as it came."""

    status: int
    headers: httpx.Headers
    body: bytes
    messages: list[Message] = field(default_factory=list)

    @property
    def message(self) -> Message:
        """The last message: the response, where there is one."""
        return self.messages[-1]


class Wire:
    """One MCP conversation over plain HTTP. Use it as an async context manager.

    `headers` go out with every request; those given to a method go out with that one, and None as a value leaves one out.
    `unchecked` is the reason for which what comes may be invalid: as a rule, that the test's upstream says such things.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        unchecked: str = "",
    ):
        self.url = url
        self.unchecked = unchecked
        self.session: str | None = None
        self.revision: str | None = None
        self.welcome: Message = {}
        self._ids = itertools.count(1)
        self._asked: dict[int | str, str] = {}
        self._headers = dict(headers or {})
        self._http = httpx.AsyncClient(trust_env=False, timeout=20, transport=transport)

    def __repr__(self) -> str:
        return f"<Wire {self.url} session {self.session}>"

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.aclose()

    async def initialize(self, capabilities: Message | None = None, revision: str = REVISION) -> Reply:
        """Shake hands, and remember the session. The answer of `initialize`; where it is no 2xx nothing was opened."""
        info = {"name": "wire", "version": "1"}
        params = {"protocolVersion": revision, "capabilities": capabilities or {}, "clientInfo": info}
        self.session = self.revision = None
        reply = await self.post(self.request_message("initialize", params))
        if reply.status == 200 and "result" in reply.message:
            self.welcome = reply.message["result"]
            self.session = reply.headers.get("mcp-session-id")
            self.revision = self.welcome["protocolVersion"]
            await self.notify("notifications/initialized")
        return reply

    async def call(
        self, tool: str, arguments: Message | None = None, headers: Mapping[str, str | None] | None = None
    ) -> Message:
        """The response to a tools/call."""
        return await self.request("tools/call", {"name": tool, "arguments": arguments or {}}, headers)

    async def request(
        self, method: str, params: Message | None = None, headers: Mapping[str, str | None] | None = None
    ) -> Message:
        """The response to a request; everything else that came before it on its stream is dropped."""
        return (await self.post(self.request_message(method, params), headers)).message

    async def notify(self, method: str, params: Message | None = None) -> Reply:
        return await self.post({"jsonrpc": "2.0", "method": method, **({"params": params} if params is not None else {})})

    async def post(self, message: object, headers: Mapping[str, str | None] | None = None) -> Reply:
        """Send a message, or `bytes` as they are, and read the whole answer."""
        async with self._posting(message, headers) as response:
            body = await response.aread()
        messages = parse(response.headers, body)
        for each in messages:
            self._check(each, self._spoken_in(message))
        return Reply(response.status_code, response.headers, body, messages)

    @contextlib.asynccontextmanager
    async def exchange(
        self, message: object, headers: Mapping[str, str | None] | None = None
    ) -> AsyncIterator[AsyncIterator[Message]]:
        """Send a message and iterate over what comes back while it comes: for questions, progress, and leaving early."""
        async with self._posting(message, headers) as response:
            yield self._checked(messages_of(response), self._spoken_in(message))

    @contextlib.asynccontextmanager
    async def listen(self, headers: Mapping[str, str | None] | None = None) -> AsyncIterator[AsyncIterator[Message]]:
        """The GET stream: iterate over what the server says. Raises httpx.HTTPStatusError where there is none."""
        merged = self._merged({"accept": "text/event-stream", **(headers or {})})
        async with self._http.stream("GET", self.url, headers=merged) as response:
            response.raise_for_status()
            yield self._checked(messages_of(response), self._revision)

    async def delete(self, headers: Mapping[str, str | None] | None = None) -> int:
        """End the session. The HTTP status."""
        return (await self._http.delete(self.url, headers=self._merged(headers or {}))).status_code

    def request_message(self, method: str, params: Message | None = None) -> Message:
        """A request with an id of its own, not yet sent."""
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params or {}}

    async def _checked(self, messages: AsyncIterator[Message], revision: str) -> AsyncIterator[Message]:
        async for message in messages:
            self._check(message, revision)
            yield message

    def _check(self, message: Message, revision: str) -> None:
        """Raises AssertionError for a message that is not valid in the revision spoken."""
        answers = "method" not in message and isinstance(message.get("id"), int | str)
        method = self._asked.get(message["id"]) if answers else None
        if method == "initialize" and "result" in message:
            revision = message["result"].get("protocolVersion", revision)
        wrong = None if self.unchecked else validity.fault(message, revision, "client", method)
        assert wrong is None, f"{self.url} said what {revision} does not allow: {wrong}"

    @property
    def _revision(self) -> str:
        return self.revision or REVISION

    def _note(self, message: object) -> None:
        """Remember what is asked, to know later what was answered."""
        for each in message if isinstance(message, list) else [message]:
            if isinstance(each, dict) and isinstance(each.get("id"), int | str) and isinstance(each.get("method"), str):
                self._asked[each["id"]] = each["method"]

    def _spoken_in(self, message: object) -> str:
        """The revision of a request and of what is said to it: its own, if it is a modern one, or the session's."""
        params = message.get("params") if isinstance(message, dict) else None
        meta = params.get("_meta") if isinstance(params, dict) else None
        own = meta.get(MODERN) if isinstance(meta, dict) else None
        return own if own in validity.REVISIONS else self._revision

    def _posting(
        self, message: object, headers: Mapping[str, str | None] | None
    ) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        self._note(message)
        content = message if isinstance(message, bytes) else json.dumps(message).encode()
        merged = self._merged({"accept": ACCEPT, "content-type": "application/json", **(headers or {})})
        return self._http.stream("POST", self.url, content=content, headers=merged)

    def _merged(self, headers: Mapping[str, str | None]) -> dict[str, str]:
        own = {"mcp-session-id": self.session, "mcp-protocol-version": self.revision}
        together: dict[str, str | None] = {**own, **_lower(self._headers), **_lower(headers)}
        return {name: value for name, value in together.items() if value is not None}


def _lower(headers: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name.lower(): value for name, value in headers.items()}


def parse(headers: httpx.Headers, body: bytes) -> list[Message]:
    """The messages in a whole body; none where it is not what its headers say."""
    kind = headers.get("content-type", "").partition(";")[0]
    if kind == "text/event-stream":
        events, _ = _split(body)
        return [json.loads(data) for data in map(_data_of, events) if data]
    if kind == "application/json" and body:
        with contextlib.suppress(ValueError):
            decoded = json.loads(body)
            return decoded if isinstance(decoded, list) else [decoded]
    return []


async def messages_of(response: httpx.Response) -> AsyncIterator[Message]:
    """The messages of an answer as they come. Empty events and comments are passed over."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        for message in parse(response.headers, await response.aread()):
            yield message
        return
    rest = b""
    async for part in response.aiter_bytes():
        events, rest = _split(rest + part)
        for data in filter(None, map(_data_of, events)):
            yield json.loads(data)


def _split(stream: bytes) -> tuple[list[bytes], bytes]:
    """The whole events of a stream so far, and what has come of the next."""
    *events, rest = re.split(rb"\r\n\r\n|\n\n|\r\r", stream)
    return events, rest


def _data_of(event: bytes) -> bytes:
    """An event's data, byte for byte. Only the ends of lines that the format knows end one: JSON may hold others."""
    lines = re.split(rb"\r\n|\n|\r", event)
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
