"""An HTTP client made by somebody's client factory (httpx or alike), behind our interface: for custom TLS and proxies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

from mcpgateway import runtime
from mcpgateway.errors import BadAnswer, ConnectFailed, ConnectionLost, UpstreamError, UpstreamTimeout
from mcpgateway.protocol.call import HeaderBlock
from mcpgateway.upstream.connection import EVENT_STREAM, MAX_BODY_BYTES


class ForeignResponse:
    """One answer of the foreign client."""

    def __init__(self, name: str, response: Any, timeout_seconds: float) -> None:
        self._name = name
        self._response = response
        self._chunks: AsyncIterator[bytes] = response.aiter_bytes()
        self.timeout_seconds = timeout_seconds
        self.status: int = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.raw}
        self.body = b""
        self.streaming = self.headers.get(b"content-type", b"").lower().startswith(EVENT_STREAM)

    def __repr__(self) -> str:
        return f"<ForeignResponse of {self._name} {self.status}>"

    async def read(self) -> None:
        """Read the whole body into `body`."""
        parts, size = [], 0
        async for chunk in self._chunks:
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise BadAnswer(self._name, f"its answer is larger than {MAX_BODY_BYTES} bytes")
        self.body = b"".join(parts)
        await self._response.aclose()

    async def chunk(self) -> bytes:
        try:
            async for chunk in self._chunks:
                return chunk
        except Exception as error:
            raise translated(self._name, error) from error
        await self._response.aclose()
        return b""

    def set_timeout(self, timeout_seconds: float) -> None:
        """Without effect: the foreign client's own read time-out holds."""

    def close(self) -> None:
        """Give up what is left. Closing a foreign response is a wait of its own, so a task does it."""
        if not self._response.is_closed:
            runtime.spawn(self._response.aclose(), f"close {self!r}")


class ForeignClient:
    """Sends through the client that `factory` made; that client lives as long as this object."""

    def __init__(self, name: str, url: str, factory: Callable[..., Any], timeout_seconds: float | None = None) -> None:
        parts = urlsplit(url)
        self._name = name
        self._base = f"{parts.scheme}://{parts.netloc}"
        self._client = factory()

    def __repr__(self) -> str:
        return f"<ForeignClient for {self._name}>"

    async def send(
        self, method: bytes, path: bytes, headers: HeaderBlock, body: bytes, timeout_seconds: float
    ) -> ForeignResponse:
        """Send a request; see `HttpClient.send`."""
        pairs = [tuple(line.split(b": ", 1)) for line in headers.split(b"\r\n") if line]
        request = self._client.build_request(
            method.decode(), self._base + path.decode(), headers=pairs, content=body, timeout=timeout_seconds
        )
        try:
            answer = ForeignResponse(self._name, await self._client.send(request, stream=True), timeout_seconds)
            if not answer.streaming:
                await answer.read()
        except UpstreamError:
            raise
        except Exception as error:
            raise translated(self._name, error) from error
        return answer

    async def aclose(self) -> None:
        await self._client.aclose()


def translated(name: str, error: Exception) -> UpstreamError:
    """The foreign client's exception as one of ours. httpx and its kin name their classes alike, so names are compared."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error) or type(error).__name__
    if kinds & {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol", "PoolTimeout"}:
        return ConnectFailed(name, f"cannot connect: {text}")
    if "TimeoutException" in kinds:
        return UpstreamTimeout(name, f"no sign of life in time; the request may have run: {text}")
    return ConnectionLost(name, f"the connection broke before the answer was complete: {text}")
