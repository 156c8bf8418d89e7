"""An HTTP client in memory: a test sees what an upstream session sends, and says what it gets for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from mcpgateway.errors import UpstreamError
from mcpgateway.protocol.call import HeaderBlock

Message = dict[str, Any]
INITIALIZED = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "fake", "version": "1"}}


class Sent(NamedTuple):
    """One request. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    timeout_seconds: float

    @property
    def message(self) -> Message:
        decoded: Message = json.loads(self.body)
        return decoded

    @property
    def rpc(self) -> str:
        """The JSON-RPC method; '' for answers and for what has no body."""
        return str(self.message.get("method", "")) if self.body else ""


class FakeResponse:
    """Satisfies `upstream.http.Response`: a whole body, or a stream that the test goes on saying things in."""

    def __init__(
        self, status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None, *, streaming: bool = False
    ) -> None:
        self.status = status
        self.headers = {name.lower().encode(): value.encode() for name, value in (headers or {}).items()}
        self.body = body
        self.streaming = streaming
        self.timeouts: list[float] = []
        self.fate = ""
        """'released', 'closed', or '' while it is held."""
        self.over = asyncio.Event()
        self._chunks: asyncio.Queue[bytes | UpstreamError] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"<FakeResponse {self.status} {self.fate}>"

    def say(self, message: object, *, id: str | None = None, retry: int | None = None) -> None:
        """Send one event."""
        lines = [f"id: {id}"] * (id is not None) + [f"retry: {retry}"] * (retry is not None)
        self.say_raw("\n".join([*lines, f"data: {json.dumps(message)}"]).encode() + b"\n\n")

    def say_raw(self, data: bytes) -> None:
        self._chunks.put_nowait(data)

    def end(self, error: UpstreamError | None = None) -> None:
        """End the stream, in order or with an error."""
        self._chunks.put_nowait(error or b"")

    async def chunk(self) -> bytes:
        chunk = await self._chunks.get()
        if isinstance(chunk, UpstreamError):
            raise chunk
        return chunk

    def set_timeout(self, timeout_seconds: float) -> None:
        self.timeouts.append(timeout_seconds)

    def release(self) -> None:
        self._end("released")

    def close(self) -> None:
        self._end("closed")

    def _end(self, fate: str) -> None:
        self.fate = self.fate or fate
        self.over.set()


Answerer = Callable[[Sent], FakeResponse | UpstreamError | None]


class FakeHttp:
    """Satisfies `upstream.http.HttpClient`. `answer` decides; where it gives None the request hangs.

    Without one it is a well-behaved server: initialize is answered, everything without an id accepted.
    """

    def __init__(self, answer: Answerer | None = None, *, session: str | None = "s-1", version: str = "2025-11-25") -> None:
        self.answer = answer or (lambda sent: None)
        self.sent: list[Sent] = []
        self._new = asyncio.Condition()
        self._session = {"Mcp-Session-Id": session} if session else {}
        self._version = version

    def __repr__(self) -> str:
        return f"<FakeHttp {len(self.sent)} requests>"

    async def send(self, method: bytes, path: bytes, headers: HeaderBlock, body: bytes, timeout_seconds: float) -> FakeResponse:
        sent = Sent(method.decode(), path.decode(), _parsed(headers), body, timeout_seconds)
        self.sent.append(sent)
        async with self._new:
            self._new.notify_all()
        answer = self.answer(sent) or self._plain(sent)
        if answer is None:
            await asyncio.Event().wait()
            raise AssertionError("nothing ends this wait")
        if isinstance(answer, UpstreamError):
            raise answer
        return answer

    def _plain(self, sent: Sent) -> FakeResponse | None:
        if sent.rpc == "initialize":
            return result(sent, INITIALIZED | {"protocolVersion": self._version}, self._session)
        if sent.method == "DELETE":
            return FakeResponse(200)
        if sent.method == "POST" and ("id" not in sent.message or "method" not in sent.message):
            return FakeResponse(202)
        return None

    async def until(self, condition: Callable[[list[Sent]], bool]) -> None:
        """Wait until what was sent fulfils a condition."""
        async with asyncio.timeout(10), self._new:
            await self._new.wait_for(lambda: condition(self.sent))

    async def next(self, rpc: str, count: int = 1) -> Sent:
        """The `count`th request of this JSON-RPC method, once it has been sent."""
        await self.until(lambda sent: len(self.of(rpc)) >= count)
        return self.of(rpc)[count - 1]

    def of(self, rpc: str) -> list[Sent]:
        return [sent for sent in self.sent if sent.rpc == rpc]

    def distrust(self) -> None:
        """Nothing is kept here that could be distrusted."""

    async def aclose(self) -> None:
        return


def result(sent: Sent, value: object, headers: dict[str, str] | None = None) -> FakeResponse:
    """The JSON answer to a request."""
    body = json.dumps({"jsonrpc": "2.0", "id": sent.message["id"], "result": value}).encode()
    return FakeResponse(200, body, {"Content-Type": "application/json", **(headers or {})})


def _parsed(headers: HeaderBlock) -> dict[str, str]:
    lines = [line.decode("latin-1").split(": ", 1) for line in headers.split(b"\r\n") if line]
    return {name.lower(): value for name, value in lines}
