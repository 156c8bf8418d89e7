"""The HTTP+SSE leg (2024-11-05): one GET stream carries all that the server says, each message of ours is a POST.

The session lives in the endpoint that the stream names first; when the stream ends, the session is gone.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from urllib.parse import SplitResult, urljoin, urlsplit

from mcpgateway.errors import AuthRefused, BadAnswer, ConnectionLost, HttpRefused, SessionLost, UpstreamError
from mcpgateway.protocol import sse
from mcpgateway.protocol.call import HeaderBlock
from mcpgateway.runtime import Sweep, spawn
from mcpgateway.upstream.base import Hello, Target, UpstreamSession
from mcpgateway.upstream.http import HttpClient, Response
from mcpgateway.upstream.owner import open_session

DEFAULT_PORTS = {"http": 80, "https": 443}


async def open_sse(target: Target, http: HttpClient, hello: Hello, headers: HeaderBlock, *, sweep: Sweep) -> UpstreamSession:
    """A session on a stream of its own. `http` stays the caller's. Raises UpstreamError; then no stream is left open."""
    return await open_session(target, SseWire(target, http, headers), hello, headers, sweep)


class SseWire:
    """The GET stream, and the endpoint it named. Connections for POSTs are the HTTP client's."""

    def __init__(self, target: Target, http: HttpClient, headers: HeaderBlock) -> None:
        self._target = target
        self._http = http
        self._headers = headers
        self._decoder = sse.Decoder()
        self._stream: Response | None = None
        self._endpoint = b""
        self._hear: Callable[[bytes], None] = _nobody
        self._posts: set[asyncio.Task[UpstreamError | None]] = set()

    def __repr__(self) -> str:
        return f"<SseWire {self._target.name} {'open' if self._stream is not None else 'not open'}, {len(self._posts)} posts>"

    async def start(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear
        headers = self._headers + b"Accept: text/event-stream\r\nCache-Control: no-store\r\n"
        path = path_of(urlsplit(self._target.url))
        self._stream = await self._http.send(b"GET", path, headers, b"", self._target.open_timeout_seconds)
        self._check_stream(self._stream)
        while not self._endpoint:
            if not await self._read():
                raise BadAnswer(self._target.name, "its event stream ended before naming an endpoint")

    def _check_stream(self, stream: Response) -> None:
        content_type = stream.headers.get(b"content-type", b"")
        if error := refusal(self._target.name, stream, lost=()):
            raise error
        if not stream.streaming or not content_type.lower().startswith(b"text/event-stream"):
            said = content_type[:80].decode("latin-1") or "no content type"
            text = f"it answered GET with {said}, not an event stream; check the URL in the configuration"
            raise HttpRefused(self._target.name, text, status=stream.status)
        # A server may say nothing for hours. From here on calls have deadlines of their own, and opening has its own too.
        stream.set_timeout(math.inf)

    async def run(self) -> str:
        while await self._read():
            pass
        return "its event stream ended"

    async def _read(self) -> bool:
        """Take in the next piece of the stream. False at its end."""
        chunk = await self._stream.chunk() if self._stream is not None else b""
        for event in self._decoder.feed(chunk) if chunk else ():
            self._take(event)
        return bool(chunk)

    def _take(self, event: sse.Event) -> None:
        if event.type == b"endpoint" and not self._endpoint:
            self._endpoint = endpoint_path(self._target, event.data)
        elif event.type == b"message" and event.data:
            self._hear(event.data)

    def post(
        self, message: bytes, headers: HeaderBlock, timeout_seconds: float, done: Callable[[UpstreamError | None], None]
    ) -> None:
        # In a task, because the answer may come over the stream before the server has answered the POST.
        task = spawn(self._post(message, headers, timeout_seconds), f"POST to {self._target.name}")
        self._posts.add(task)
        task.add_done_callback(partial(self._posted, done))

    async def _post(self, message: bytes, headers: HeaderBlock, timeout_seconds: float) -> UpstreamError | None:
        headers += b"Content-Type: application/json\r\n"
        try:
            response = await self._http.send(b"POST", self._endpoint, headers, message, timeout_seconds)
        except UpstreamError as error:
            return error
        response.close()
        return refusal(self._target.name, response, lost=(400, 404))

    def _posted(self, done: Callable[[UpstreamError | None], None], task: asyncio.Task[UpstreamError | None]) -> None:
        self._posts.discard(task)
        if task.cancelled() or task.exception() is not None:
            done(ConnectionLost(self._target.name, "the message was not sent to its end"))
        else:
            done(task.result())

    async def aclose(self) -> None:
        for task in self._posts:
            task.cancel()
        if self._posts:
            await asyncio.wait(self._posts)
        if self._stream is not None:
            self._stream.close()


def refusal(upstream: str, response: Response, lost: tuple[int, ...]) -> UpstreamError | None:
    """The error that a status stands for, None for success. Statuses in `lost` say that the session is unknown."""
    status = response.status
    if 200 <= status < 300:
        return None
    if status in (401, 403):
        challenge = response.headers.get(b"www-authenticate", b"").decode("latin-1")
        return AuthRefused(upstream, f"it answered HTTP {status}", status=status, challenge=challenge)
    if status in lost:
        return SessionLost(upstream, f"it answered HTTP {status}: it no longer knows the session")
    return HttpRefused(upstream, f"it answered HTTP {status}", status=status)


def endpoint_path(target: Target, data: bytes) -> bytes:
    """Path and query of the endpoint that the server named.

    Raises BadAnswer where it lies elsewhere: the call's credentials go there, and no server may choose who gets them.
    """
    if not data or any(byte <= 0x20 or byte >= 0x7F for byte in data):
        raise BadAnswer(target.name, f"it named an endpoint that is no URL: {data[:80]!r}")
    try:
        url = urlsplit(urljoin(target.url, data.decode("ascii")))
        same = _origin(url) == _origin(urlsplit(target.url))
    except ValueError as error:
        raise BadAnswer(target.name, f"it named an endpoint that is no URL: {error}") from error
    if not same:
        raise BadAnswer(target.name, f"it named an endpoint of another origin, on {url.hostname!r}")
    return path_of(url)


def path_of(url: SplitResult) -> bytes:
    """What stands in the request line: path and query."""
    return ((url.path or "/") + (f"?{url.query}" if url.query else "")).encode("ascii")


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or DEFAULT_PORTS.get(url.scheme)


def _nobody(data: bytes) -> None:
    return
