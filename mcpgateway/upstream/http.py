"""What the HTTP legs need of an HTTP client: `connection` is our own, `foreign` adapts one made by a client factory."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import quote, urljoin, urlsplit

from mcpgateway.protocol.call import HeaderBlock


class Response(Protocol):
    """One HTTP answer. Its body is complete in `body` unless it is an event stream; then `streaming` is true and it is
    read with `chunk`. Whoever got a streaming one closes it.

    A stream that answers a POST and was over before anybody could read of it may be given as a plain body, if it held one
    result and nothing else."""

    status: int
    headers: dict[bytes, bytes]
    """Names in lower case; of repeated ones the last."""
    body: bytes
    streaming: bool

    async def chunk(self) -> bytes:
        """The next piece, or b'' at the orderly end. Raises ConnectionLost, UpstreamTimeout, BadAnswer."""

    def set_timeout(self, timeout_seconds: float) -> None:
        """Set the longest silence of a stream, from now on; infinity for none."""

    def release(self) -> None:
        """Nothing more is wanted of the stream, and it is expected to end: its connection is kept if it soon does."""

    def close(self) -> None:
        """Give up what is left of the stream. Idempotent."""


class HttpClient(Protocol):
    """Requests to one upstream, over kept-alive connections that carry no identity of their own."""

    async def send(self, method: bytes, path: bytes, headers: HeaderBlock, body: bytes, timeout_seconds: float) -> Response:
        """Send one request. `path` is path and query; `headers` are rendered lines; host and length are added here.

        `timeout_seconds` is the longest silence. Raises ConnectFailed, ConnectionLost, UpstreamTimeout, BadAnswer; a
        status that is no success is an answer, not an error.
        """

    def distrust(self) -> None:
        """An answer was another request's: what connected so far is not used again."""

    async def aclose(self) -> None: ...


def path_of(url: str) -> bytes:
    """What stands in the request line: path and query, with all escaped that may not stand there."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return quote(target, safe="!$%&'()*+,/:;=?@[]~-._").encode("ascii")


def same_origin_redirect(url: str, response: Response) -> bytes | None:
    """Where a 307 or 308 points, if it stays on the origin (a missing slash, mostly). Others are not followed."""
    location = response.headers.get(b"location")
    if response.status not in (307, 308) or location is None:
        return None
    try:
        there = urljoin(url, location.decode("latin-1"))
        same = urlsplit(there)[:2] == urlsplit(url)[:2]
    except ValueError:
        return None
    return path_of(there) if same else None
