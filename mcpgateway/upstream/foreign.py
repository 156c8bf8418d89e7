"""An HTTP client made by somebody's client factory (httpx or alike), behind our interface: for custom TLS and proxies."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

from mcpgateway import runtime
from mcpgateway.errors import BadAnswer, ConnectFailed, ConnectionLost, UpstreamError, UpstreamTimeout
from mcpgateway.protocol.call import HeaderBlock
from mcpgateway.upstream.exchange import EVENT_STREAM, MAX_BODY_BYTES

_log = logging.getLogger("mcpgateway.upstream")

CONNECT_SECONDS = 10.0


class ForeignResponse:
    """One answer of the foreign client. Its silence is timed here: the foreign client's own read time-out is off, because
    it cannot be changed once a stream has begun."""

    def __init__(self, name: str, response: Any, timeout_seconds: float) -> None:
        self._name = name
        self._response = response
        self._chunks: AsyncIterator[bytes] = response.aiter_bytes()
        self._silence: asyncio.Timeout | None = None
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
        while chunk := await self.chunk():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise BadAnswer(self._name, f"its answer is larger than {MAX_BODY_BYTES} bytes")
        self.body = b"".join(parts)

    async def chunk(self) -> bytes:
        """The next piece of the body, b'' at its orderly end. Raises what broke it."""
        try:
            async with asyncio.timeout(_finite(self.timeout_seconds)) as self._silence:
                async for chunk in self._chunks:
                    if chunk:
                        return chunk
                await self._response.aclose()
        except Exception as error:
            raise translated(self._name, error) from error
        finally:
            self._silence = None
        return b""

    def set_timeout(self, timeout_seconds: float) -> None:
        """Set the longest silence, from now on."""
        self.timeout_seconds = timeout_seconds
        if self._silence is not None and not self._silence.expired():
            length = _finite(timeout_seconds)
            self._silence.reschedule(None if length is None else asyncio.get_running_loop().time() + length)

    def release(self) -> None:
        """As `close`: what becomes of the connection is the foreign client's affair."""
        self.close()

    def close(self) -> None:
        """Give up what is left. Closing a foreign response is a wait of its own, so a task does it."""
        if not self._response.is_closed:
            runtime.spawn(self._close(), f"close {self!r}")

    async def _close(self) -> None:
        try:
            await self._response.aclose()
        except Exception as error:  # its client may be closed already, and with it the response
            _log.debug("closing %r: %s", self, error)


class ForeignClient:
    """Sends through the client that `factory` made; that client lives as long as this object."""

    def __init__(self, name: str, url: str, factory: Callable[..., Any]) -> None:
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
        answer: ForeignResponse | None = None
        try:
            async with asyncio.timeout(_finite(timeout_seconds)):
                answer = ForeignResponse(self._name, await self._begin(method, path, headers, body), timeout_seconds)
            if not answer.streaming:
                await answer.read()
        except BaseException as error:
            if answer is not None:
                answer.close()
            if isinstance(error, UpstreamError) or not isinstance(error, Exception):
                raise
            raise translated(self._name, error) from error
        return answer

    async def _begin(self, method: bytes, path: bytes, headers: HeaderBlock, body: bytes) -> Any:
        """The foreign response, as soon as its head is there."""
        pairs = [tuple(line.split(b": ", 1)) for line in headers.split(b"\r\n") if line]
        # Connect, read, write, pool.
        lengths = (CONNECT_SECONDS, None, None, None)
        request = self._client.build_request(
            method.decode(), self._base + path.decode(), headers=pairs, content=body, timeout=lengths
        )
        # A redirect could lead the headers to another origin, so none is followed here, whatever the client was told.
        return await self._client.send(request, stream=True, follow_redirects=False)

    def distrust(self) -> None:
        """Without effect: the foreign client's connections are its own."""

    async def aclose(self) -> None:
        await self._client.aclose()


def _finite(seconds: float) -> float | None:
    return None if seconds == math.inf else seconds


def translated(name: str, error: Exception) -> UpstreamError:
    """The foreign client's exception as one of ours. httpx and its kin name their classes alike, so names are compared."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error) or type(error).__name__
    if kinds & {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol", "PoolTimeout"}:
        return ConnectFailed(name, f"cannot connect: {text}")
    if kinds & {"TimeoutException", "TimeoutError"}:
        return UpstreamTimeout(name, f"no sign of life in time; the request may have run: {text}")
    if "DecodingError" in kinds:
        return BadAnswer(name, f"its answer cannot be decompressed: {text}")
    return ConnectionLost(name, f"the connection broke before the answer was complete: {text}")
